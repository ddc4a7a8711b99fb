"""From task gradients to the update: Gram matrices, rules, the plan of a step, and the optimizer's pass."""
