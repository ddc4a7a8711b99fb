"""The case of a differentiable function: its result, and every gradient, of activations and of parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from concord.kernels.checks.judging import Case
from concord.kernels.dropout import Dropout
from concord.kernels.layout.rows import TaskRows
from concord.kernels.measure import Work

# Takes activations and parameters, the rows of each task or None, and the dtype of what is computed.
Function = Callable[[Sequence[Tensor], Sequence[Tensor], TaskRows | None, torch.dtype], Tensor]
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def autograd_case(
    op: str,
    shapes: str,
    function: Function,
    activations: Sequence[Tensor],
    parameters: Sequence[Tensor],
    rows: TaskRows | None,
    dtype: torch.dtype,
    *,
    gradient_dtype: torch.dtype = torch.float32,
    work: Work | None = None,
) -> Case:
    """The case of a differentiable function.

    activations: are taken in `dtype`; parameters: in fp32 or, for the exact results, in fp64. With `rows`, parameters
    have task gradients of `gradient_dtype` in a strided buffer that starts as NaN, or as ones where `rows` accumulate.
    All lie on one device.
    """
    activations = [tensor.to(dtype).double() for tensor in activations]

    def leaves(compute_dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        own = [tensor.to(compute_dtype).clone().requires_grad_() for tensor in activations]
        parameter_dtype = torch.promote_types(compute_dtype, torch.float32)
        return own, [tensor.to(parameter_dtype, copy=True).requires_grad_() for tensor in parameters]

    def prepare(compute_dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        own, weights = leaves(compute_dtype)
        if rows is not None:
            home = torch.float64 if compute_dtype == torch.float64 else gradient_dtype
            for weight in weights:
                weight.task_gradients = new_task_gradients(weight, rows, home)
        return own, weights

    def compute(compute_dtype: torch.dtype) -> dict[str, Tensor]:
        own, weights = prepare(compute_dtype)
        y = function(own, weights, rows, compute_dtype)
        y.backward(_upstream(y))
        found = {"result": y.detach()}
        found |= {f"gradient of activation {index}": tensor.grad for index, tensor in enumerate(own)}
        for index, weight in enumerate(weights):
            found[f"gradient of parameter {index}"] = weight.grad if rows is None else weight.task_gradients
        return found

    kept: list[tuple[list[Tensor], list[Tensor]]] = []

    def timed() -> object:
        if not kept:
            kept.append(prepare(dtype))
        own, weights = kept[0]
        y = function(own, weights, rows, dtype)
        return torch.autograd.grad(y, [*own, *weights], torch.ones_like(y), allow_unused=True)

    detail = "" if rows is None else f" for {len(rows.offsets) - 1} tasks in {NAMES[gradient_dtype]}"
    adding = ", added" if rows is not None and rows.accumulate else ""
    return Case(
        op=op, shapes=f"{shapes}, {NAMES[dtype]}{detail}{adding}", dtype=dtype, compute=compute, timed=timed, work=work
    )


def new_task_gradients(parameter: Tensor, rows: TaskRows, dtype: torch.dtype) -> Tensor:
    """Where the task gradients of `parameter` are deposited: a part of rows that are longer."""
    tasks, start = len(rows.offsets) - 1, 1.0 if rows.accumulate else torch.nan
    buffer = torch.full((tasks, parameter.numel() + 24), start, dtype=dtype, device=parameter.device)
    return buffer[:, 8 : 8 + parameter.numel()].view(tasks, *parameter.shape)


def _upstream(y: Tensor) -> Tensor:
    """A random gradient of the result, the same for every dtype."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.device, y.dtype)


def lowered(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix as the forward reads it: in the compute dtype, with the task gradients of its master."""
    value = parameter.to(dtype)
    if hasattr(parameter, "task_gradients"):
        value.task_gradients = parameter.task_gradients
    return value


def rows_of(counts: Sequence[int], device: torch.device | str, *, accumulate: bool = False) -> TaskRows:
    """The rows of tasks that own `counts` of them."""
    return TaskRows.of_counts(list(counts), device, accumulate=accumulate)


def new_dropout(rate: float, device: torch.device | str) -> Dropout | None:
    """A dropout with a seed of more than 32 bits; None for a rate of 0."""
    return Dropout(rate, torch.tensor(2**40 + 12345, device=device), 3) if rate else None
