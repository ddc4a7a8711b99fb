"""Kernels against the torch references: the same op in fp64, in torch's own dtype, and in Triton."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kernels import TaskRows
from kernels.dispatch import using_kernels
from tests.interpreter.support import BF16_IS_TRUE
from tests.tolerances import assert_as_accurate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
# bf16 where it is computed as on a GPU.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (BF16_IS_TRUE or not INTERPRETED)


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds NaN, so that what a kernel forgets to write is seen."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poison(*arguments, original=original, **options):
            tensor = original(*arguments, **options)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, name, poison)


def task_rows(counts: Sequence[int], *, accumulate: bool = False) -> TaskRows:
    """The rows of tasks that own `counts` of them."""
    bounds = (0, *torch.tensor(counts).cumsum(0).tolist())
    offsets = torch.tensor(bounds, dtype=torch.int32, device=DEVICE)
    return TaskRows(offsets=offsets, bounds=bounds, accumulate=accumulate)


def run_op(
    op: Callable[..., Tensor],
    kernels: str,
    activations: Sequence[Tensor],
    parameters: Sequence[Tensor],
    rows: TaskRows | None,
    dtype: torch.dtype,
    gradient_dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The result and every gradient of `op(activations, parameters, rows)`.

    Activations are taken in `dtype`, parameters in fp32 or, where dtype is fp64, in that. With `rows`, parameters have
    task gradients in a strided buffer that starts as NaN, or as ones where `rows` accumulate.
    """
    activations = [tensor.detach().to(DEVICE, dtype).clone().requires_grad_() for tensor in activations]
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    parameters = [tensor.detach().to(DEVICE, parameter_dtype).clone().requires_grad_() for tensor in parameters]
    start = torch.nan if rows is None or not rows.accumulate else 1.0
    if rows is not None:
        tasks = len(rows.bounds) - 1
        buffer_dtype = torch.float64 if dtype == torch.float64 else gradient_dtype
        for parameter in parameters:
            buffer = torch.full((tasks, parameter.numel() + 24), start, dtype=buffer_dtype, device=DEVICE)
            parameter.task_gradients = buffer[:, 8 : 8 + parameter.numel()].view(tasks, *parameter.shape)
    with using_kernels(kernels):
        y = op(activations, parameters, rows)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(DEVICE, dtype)
        y.backward(upstream)
    found = {"result": y.detach()}
    found |= {f"activation {index}": tensor.grad for index, tensor in enumerate(activations)}
    for index, parameter in enumerate(parameters):
        found[f"parameter {index}"] = parameter.grad if rows is None else parameter.task_gradients
    return found


def check_op(
    op: Callable[..., Tensor],
    activations: Sequence[Tensor],
    parameters: Sequence[Tensor],
    rows: TaskRows | None,
    dtype: torch.dtype,
    gradient_dtype: torch.dtype = torch.float32,
) -> None:
    """The kernels' error against fp64 is at most twice that of torch in the same dtype; a second run is bit-equal."""
    activations = [tensor.to(dtype).double() for tensor in activations]
    arguments = (activations, parameters, rows)
    exact = run_op(op, "torch", *arguments, torch.float64)
    same_dtype = run_op(op, "torch", *arguments, dtype, gradient_dtype)
    found = run_op(op, "triton", *arguments, dtype, gradient_dtype)
    again = run_op(op, "triton", *arguments, dtype, gradient_dtype)
    for name, value in found.items():
        assert torch.equal(value, again[name]), f"{name} differs from one call to the next"
        assert_as_accurate(value, same_dtype[name], exact[name], dtype)
