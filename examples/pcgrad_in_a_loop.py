"""PCGrad in a training loop of one's own: python examples/pcgrad_in_a_loop.py

Two tasks share a layer. The wrapper takes their losses apart, projects the gradients that conflict, and leaves the
merged gradient to any optimizer of torch.
"""

import torch

from concord import PCGrad

torch.manual_seed(1)
trunk = torch.nn.Linear(8, 16)
heads = torch.nn.ModuleList([torch.nn.Linear(16, 1), torch.nn.Linear(16, 1)])
optimizer = PCGrad(torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.01), reduction="mean")
inputs, targets = torch.randn(32, 8), torch.randn(2, 32, 1)

for step in range(100):
    features = trunk(inputs).relu()
    losses = [(head(features) - target).square().mean() for head, target in zip(heads, targets, strict=True)]
    optimizer.zero_grad()
    optimizer.pc_backward(losses)
    optimizer.step()
    if step % 20 == 0 or step == 99:
        print(f"step {step:>2}  losses {losses[0].item():.3f} {losses[1].item():.3f}")
