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
from concord.kernels.layout.rows import TaskRows, first_row_of, require_rows, task_gradients_of, wide
from concord.kernels.products import linear_product


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        weight_gradients: Tensor | None,
        bias_gradients: Tensor | None,
        first_row: int,
        rows: TaskRows | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight_gradients, ctx.bias_gradients = weight_gradients, bias_gradients
        ctx.first_row, ctx.rows = first_row, rows
        return linear_product(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = linear_product(dy, weight.t()) if ctx.needs_input_grad[0] else None
        d_weight = d_bias = None
        if ctx.weight_gradients is not None:
            deposit_product(ctx.weight_gradients, require_rows(ctx.rows), dy, x, ctx.first_row)
        elif ctx.needs_input_grad[1]:
            d_weight = linear_product(dy.t(), x.t())
        if ctx.bias_gradients is not None:
            deposit_sum(ctx.bias_gradients, require_rows(ctx.rows), dy, ctx.first_row)
        elif ctx.needs_input_grad[2]:
            d_bias = dy.sum(0, dtype=wide(dy.dtype))
        return dx, d_weight, d_bias, None, None, None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: TaskRows | None = None) -> Tensor:
    """`x @ weight^T + bias`.

    x: [rows, n] in the compute dtype; weight: [m, n] in the same; bias: fp32 [m] or None; both may be the same `part`
    of parameters; rows: the rows of each task, needed in the backward where the parameters have `task_gradients`.
    Returns [rows, m] in x's dtype.
    """
    gradients = (task_gradients_of(weight), task_gradients_of(bias))
    return _Linear.apply(x, weight, bias, *gradients, first_row_of(weight), rows)
