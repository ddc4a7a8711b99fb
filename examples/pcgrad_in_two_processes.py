"""PCGrad over several processes with DistributedDataParallel: python examples/pcgrad_in_two_processes.py

Two processes of a CPU stand for two GPUs: with "nccl", one device a process and `torchrun` the loop is the same. The
wrapper averages each task's gradients over the processes before surgery, so DDP's own averaging is switched off by
`no_sync`; what DDP does beside it, such as one beginning for all, stays.
"""

import gc
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from concord import PCGrad

PROCESSES, ROWS = 2, 16  # rows of each process's part of the batch


class TwoTasks(torch.nn.Module):
    """A trunk that two tasks share, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = torch.nn.Linear(8, 16)
        self.heads = torch.nn.ModuleList([torch.nn.Linear(16, 1), torch.nn.Linear(16, 1)])

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """One prediction a task."""
        features = self.trunk(inputs).relu()
        return [head(features) for head in self.heads]


def train(rank: int, store: str) -> None:
    """What each process does."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    torch.manual_seed(1)
    inputs, targets = torch.randn(PROCESSES * ROWS, 8), torch.randn(2, PROCESSES * ROWS, 1)
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    model = DistributedDataParallel(TwoTasks())
    optimizer = PCGrad(torch.optim.Adam(model.parameters(), lr=0.01), process_group=dist.group.WORLD)
    with model.no_sync():
        for step in range(60):
            predictions = model(inputs[mine])
            losses = [(y - target[mine]).square().mean() for y, target in zip(predictions, targets, strict=True)]
            optimizer.zero_grad()
            optimizer.pc_backward(losses)
            optimizer.step()
            whole = torch.stack(losses).detach()
            dist.all_reduce(whole)
            if rank == 0 and step % 20 == 0:
                first, second = (whole / PROCESSES).tolist()
                print(f"step {step:>2}  losses {first:.3f} {second:.3f}")
    weights = [torch.empty_like(model.module.trunk.weight) for _ in range(PROCESSES)]
    dist.all_gather(weights, model.module.trunk.weight.detach())
    if not torch.equal(weights[0], weights[1]):
        raise SystemExit("the processes have come apart")
    if rank == 0:
        print("both processes have the same weights")
    # The group's threads end with the last reference to it, which DDP's module holds, and must not outlive Python.
    dist.destroy_process_group()
    del model, optimizer
    gc.collect()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (str(Path(folder) / "store"),), nprocs=PROCESSES)
