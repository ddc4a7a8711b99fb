"""Linear layer y = x W^T + b whose backward yields one weight and one bias gradient a task.

Forward 2 * rows * m * n operations, backward twice that, however many tasks share the rows: on an H200 (790 TFLOP/s in
bf16), 2,700 rows of m = 3072 and n = 768 take at least 16 us forward and 32 us backward. The result and dx are torch's
products, which run at that speed; the gradients of each task are `kernels.task_products_kernels` and
`kernels.task_sums_kernels`.
"""

from typing import Any

import torch
from torch import Tensor

from concord.kernels.deposits import deposit_product, deposit_sum
from concord.kernels.layout.rows import TaskRows, first_row_of, in_dtype, require_rows, task_gradients_of, wide
from concord.kernels.products import add_product, linear_product


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lowered_bias: Tensor | None,
        gradients: tuple[Tensor | None, Tensor | None],
        first_row: int,
        rows: TaskRows | None,
        passes: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.gradients, ctx.first_row, ctx.rows = gradients, first_row, rows
        y = linear_product(x, weight, lowered_bias)
        return (y, x.view_as(x)) if passes else y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, d_passed: Tensor | None = None) -> tuple[Tensor | None, ...]:
        if dy is None:  # the input alone was used
            return d_passed, *[None] * 7
        x, weight = ctx.saved_tensors
        weight_gradients, bias_gradients = ctx.gradients
        dx = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            dx = linear_product(dy, weight.t()) if d_passed is None else add_product(d_passed, dy, weight.t())
        if weight_gradients is not None:
            deposit_product(weight_gradients, require_rows(ctx.rows), dy, x, ctx.first_row)
        elif ctx.needs_input_grad[1]:
            d_weight = linear_product(dy.t(), x.t())
        if bias_gradients is not None:
            deposit_sum(bias_gradients, require_rows(ctx.rows), dy, ctx.first_row)
        elif ctx.needs_input_grad[2]:
            d_bias = dy.sum(0, dtype=wide(dy.dtype))
        return dx, d_weight, d_bias, *[None] * 5


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: TaskRows | None = None) -> Tensor:
    """`x @ weight^T + bias`.

    x: [rows, n] in the compute dtype; weight: [m, n] in the same; bias: fp32 [m] or None; both may be the same `part`
    of parameters; rows: the rows of each task, needed in the backward where the parameters have `task_gradients`.
    Returns [rows, m] in x's dtype.
    """
    return _Linear.apply(*_arguments(x, weight, bias, rows), False)


def linear_and_input(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: TaskRows | None = None
) -> tuple[Tensor, Tensor]:
    """The same as `linear`, and x again, for a residual connection.

    Where x goes on by the second result alone, its gradient comes about within the product of the backward, without an
    addition of its own. The gradient that arrives there is written over: nothing else may use it, so that the second
    result must not be added to anything.
    """
    return _Linear.apply(*_arguments(x, weight, bias, rows), True)


def _arguments(x: Tensor, weight: Tensor, bias: Tensor | None, rows: TaskRows | None) -> tuple[Any, ...]:
    gradients = (task_gradients_of(weight), task_gradients_of(bias))
    lowered = None if bias is None else in_dtype(bias, x.dtype)
    return x, weight, bias, lowered, gradients, first_row_of(weight), rows
