"""What would make the host wait for a GPU is counted on a CPU, and nothing else is."""

import pytest
import torch
from torch import nn

from bench.host_synchronisations import count_host_synchronisations

CPU = torch.device("cpu")
VALUES = torch.tensor([1.0, -2.0, 3.0])


def assign():
    VALUES.clone()[VALUES > 0] = VALUES[:2]


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda: VALUES[0].item(), 1),
        (lambda: float(VALUES.sum()) if VALUES.max() > 0 else 0, 2),
        (lambda: VALUES.nonzero(), 1),
        (lambda: VALUES.masked_select(VALUES > 0), 1),
        (lambda: VALUES[VALUES > 0], 1),
        (assign, 1),
        (lambda: VALUES[torch.tensor([0, 2])] * VALUES[1:] @ VALUES[:2], 0),
        (lambda: torch.where(VALUES > 0, VALUES, 0).sum().clamp_max(0), 0),
    ],
)
def test_reads_on_the_host_are_counted(function, count):
    assert count_host_synchronisations(function, CPU) == count


def test_reads_within_a_backward_are_counted():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy * dy.max().item()

    x = torch.ones(3, requires_grad=True)
    assert count_host_synchronisations(lambda: Reads.apply(x).sum().backward(), CPU) == 1


def test_an_optimizers_step_counters_are_on_the_host_anyway():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.AdamW([parameter])
    optimizer.step()
    assert count_host_synchronisations(optimizer.step, CPU) > 0
    assert count_host_synchronisations(optimizer.step, CPU, optimizer) == 0
