"""A rule of surgery of one's own, in a loop of one's own: python examples/rule_of_your_own.py

A rule sees the dot products of the tasks' gradients and says what these are multiplied by before they are added up.
`concord run --surgery rule_of_your_own:equal_norms` trains with the same function.
"""

import torch


def equal_norms(grams: torch.Tensor) -> torch.Tensor:
    """Every task's gradient brought to the mean of their norms.

    grams: fp64 [groups, T, T] on the CPU. Gives coefficients [groups, T]; a task without a gradient has a norm of 0.
    """
    norms = grams.diagonal(dim1=1, dim2=2).sqrt()
    return torch.where(norms > 0, norms.mean(1, keepdim=True) / norms.clamp_min(1e-30), 0.0)


def main() -> None:
    """Two tasks, the losses of one a hundred times as large as those of the other."""
    from concord import Surgery

    torch.manual_seed(1)
    trunk = torch.nn.Linear(8, 16)
    heads = torch.nn.ModuleDict({"small": torch.nn.Linear(16, 1), "large": torch.nn.Linear(16, 1)})
    optimizer = Surgery(torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.01), rule=equal_norms)
    inputs, targets = torch.randn(32, 8), {name: torch.randn(32, 1) for name in heads}
    for step in range(100):
        features = trunk(inputs).relu()
        losses = {name: (head(features) - targets[name]).square().mean() for name, head in heads.items()}
        optimizer.zero_grad()
        optimizer.pc_backward({"small": losses["small"], "large": 100 * losses["large"]})
        optimizer.step()
        if step % 25 == 0 or step == 99:
            found = optimizer.statistics()  # waits for the device
            norms, coefficients = (" ".join(f"{x:.3g}" for x in row) for row in (found.norms, found.coefficients))
            print(f"step {step:>2}  norms {norms}  coefficients {coefficients}  conflicts {found.conflicts}")


if __name__ == "__main__":
    main()
