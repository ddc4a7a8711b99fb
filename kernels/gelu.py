"""bias + GELU in its exact form: gelu(z) = z * (1 + erf(z / sqrt(2))) / 2, z = x + bias (Hendrycks and Gimpel, 2016).

Saves the pre-activation only. Forward: one element read, two written (z and the result); backward: two read, one
written; at [rows, n] that is 3 * rows * n elements each way.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.rows import TaskRows, deposit_sum, require_rows, task_gradients_of, wide


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, bias_gradients: Tensor | None, rows: TaskRows | None) -> Tensor:
        z = x + bias.to(x.dtype)
        ctx.save_for_backward(z)
        ctx.bias_gradients, ctx.rows = bias_gradients, rows
        return functional.gelu(z)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        dz = torch.ops.aten.gelu_backward(dy, z)
        d_bias = None
        if ctx.bias_gradients is not None:
            deposit_sum(ctx.bias_gradients, require_rows(ctx.rows), dz)
        elif ctx.needs_input_grad[1]:
            d_bias = dz.sum(0, dtype=wide(dy.dtype))
        return dz, d_bias, None, None


def bias_gelu(x: Tensor, bias: Tensor, rows: TaskRows | None = None) -> Tensor:
    """`gelu(x + bias)`.

    x: [rows, n] in the compute dtype; bias: fp32 [n]; rows: the rows of each task, needed in the backward where
    `bias` has `task_gradients`. Returns [rows, n] in x's dtype.
    """
    return _BiasGelu.apply(x, bias, task_gradients_of(bias), rows)
