"""The kernels of bias + GELU against fp64, forward and backward, with and without task gradients."""

import pytest
import torch

from concord.kernels.checks.ops import gelu_case
from concord.kernels.dispatch import using_kernels
from concord.kernels.gelu import bias_gelu
from tests.kernels.parity import DEVICE, DTYPES, check, task_rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("columns", "counts"), [(1, (3, 0, 14)), (3, (1,)), (64, (2, 1, 1, 3, 9)), (64, (40, 90)), (1023, (3, 0, 14))]
)
def test_the_kernels_are_as_accurate_as_torch(columns, counts, dtype):
    for rows in (task_rows(counts), task_rows(counts, accumulate=True), None):
        check(gelu_case(rows, sum(counts), columns, dtype, DEVICE))


def test_task_gradients_may_be_bf16():
    check(gelu_case(task_rows((10, 20)), 30, 40, torch.float32, DEVICE, gradient_dtype=torch.bfloat16))


@pytest.mark.slow
def test_torch_compile_takes_the_op_whole():
    bias = torch.randn(16, device=DEVICE, requires_grad=True)
    x = torch.randn(9, 16, device=DEVICE, requires_grad=True)
    rows = task_rows((4, 5))

    def gradients(function):
        bias.task_gradients = torch.full((2, 16), torch.nan, device=DEVICE)
        x.grad = None
        y = function(x, bias, rows)
        y.sum().backward()
        return y.detach(), x.grad, bias.task_gradients

    with using_kernels("triton"):
        expected = gradients(bias_gelu)
        compiled = torch.compile(lambda *inputs: bias_gelu(*inputs), fullgraph=True, backend="aot_eager")
        for value, other in zip(gradients(compiled), expected, strict=True):
            assert torch.equal(value, other)
