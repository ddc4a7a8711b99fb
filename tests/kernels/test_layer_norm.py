"""The kernels of bias + dropout + residual + LayerNorm against fp64, forward and backward."""

import pytest
import torch

from concord.kernels.checks.autograd import new_dropout
from concord.kernels.checks.ops import layer_norm_case
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import Dropout
from concord.kernels.layer_norm import add_layer_norm
from tests.kernels.parity import DEVICE, DTYPES, check, task_rows


def tensors(count, columns):
    generator = torch.Generator().manual_seed(count + columns)
    x, residual = torch.randn(2, count, columns, generator=generator)
    return [x, residual], list(torch.randn(3, columns, generator=generator))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("columns", "rate", "counts"),
    [
        (3, 0.0, (1,)),
        (5, 0.0, (3, 0, 14)),
        (40, 0.0, (2, 1, 1, 3, 9)),
        (384, 0.2, (40, 23)),
        (1023, 0.0, (3, 0, 14)),
        (1024, 0.1, (7,)),
    ],
)
def test_the_kernels_are_as_accurate_as_torch(columns, rate, counts, dtype):
    check(layer_norm_case(task_rows(counts), sum(counts), columns, dtype, DEVICE, rate=rate))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_without_task_gradients_the_parameters_get_ordinary_ones(rate):
    check(layer_norm_case(None, 21, 48, torch.float32, DEVICE, rate=rate))


def test_a_second_micro_batch_adds_to_the_task_gradients():
    check(layer_norm_case(task_rows((5, 0, 16), accumulate=True), 21, 48, torch.float32, DEVICE, rate=0.3))


def test_dropout_needs_whole_calls_of_the_generator():
    (x, residual), (bias, gamma, beta) = tensors(4, 12)
    with using_kernels("triton"), pytest.raises(ValueError, match="multiple of 8"):
        add_layer_norm(*(t.to(DEVICE) for t in (x, bias, residual, gamma, beta)), 1e-12, new_dropout(0.1, DEVICE))


@pytest.mark.slow
def test_torch_compile_takes_the_op_whole():
    (x, residual), parameters = tensors(9, 16)
    x, residual, bias, gamma, beta = (t.to(DEVICE).requires_grad_() for t in (x, residual, *parameters))
    rows, seed = task_rows((4, 5)), torch.tensor(5, device=DEVICE)

    def function():
        return add_layer_norm(x, bias, residual, gamma, beta, 1e-12, Dropout(0.25, seed, 1), rows)

    def gradients(call):
        x.grad = None
        for parameter in (bias, gamma, beta):
            parameter.task_gradients = torch.full((2, 16), torch.nan, device=DEVICE)
        y = call()
        (y * torch.arange(16.0, device=DEVICE)).sum().backward()
        return y.detach(), x.grad, *(parameter.task_gradients for parameter in (bias, gamma, beta))

    with using_kernels("triton"):
        expected = gradients(function)
        for value, other in zip(
            gradients(torch.compile(function, fullgraph=True, backend="aot_eager")), expected, strict=True
        ):
            assert torch.equal(value, other)
