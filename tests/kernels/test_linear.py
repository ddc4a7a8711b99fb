"""A linear layer that hands its input on: the gradient of a residual connection comes about within the product."""

import pytest
import torch

from concord.kernels.linear import linear, linear_and_input
from tests.kernels.parity import DEVICE


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    shapes = ((5, 6), (6, 6), (6,), (5, 6))
    x, weight, bias, upstream = (torch.randn(shape, generator=generator, dtype=dtype).to(DEVICE) for shape in shapes)
    return [tensor.requires_grad_() for tensor in (x, weight, bias)], upstream


def residual(x, weight, bias):
    y, passed = linear_and_input(x, weight, bias)
    return y.tanh() + passed.sin()


def test_the_input_goes_on_and_its_gradient_is_the_sum_of_both_ways():
    leaves, upstream = inputs()
    wanted = torch.autograd.grad(linear(*leaves).tanh() + leaves[0].sin(), leaves, upstream)
    for found, right in zip(torch.autograd.grad(residual(*leaves), leaves, upstream), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use", ["result", "input"])
def test_either_result_may_be_used_alone(use):
    leaves, upstream = inputs()
    y, passed = linear_and_input(*leaves)
    found = torch.autograd.grad(y if use == "result" else passed * 2, leaves, upstream, allow_unused=True)
    if use == "input":
        assert torch.equal(found[0], 2 * upstream)
        assert found[1:] == (None, None)
    else:
        for own, right in zip(found, torch.autograd.grad(linear(*leaves), leaves, upstream), strict=True):
            torch.testing.assert_close(own, right)


def test_the_gradient_that_arrives_at_the_input_becomes_the_sum():
    (x, weight, _), upstream = inputs(torch.float32)
    y, passed = linear_and_input(x, weight)
    arrived = upstream.clone()
    (found,) = torch.autograd.grad([y, passed], x, [upstream, arrived])
    assert found.data_ptr() == arrived.data_ptr()
    torch.testing.assert_close(found, upstream @ weight + upstream)
