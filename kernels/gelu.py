"""bias + GELU in its exact form: gelu(z) = z * (1 + erf(z / sqrt(2))) / 2, z = x + bias (Hendrycks and Gimpel, 2016).

Saves the pre-activation only. Forward: rows * n elements read, twice as many written (z and the result); backward:
twice as many read, rows * n written, and the bias's task gradients summed in the same pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from concord.kernels.deposits import deposit_sum
from concord.kernels.dispatch import launchers
from concord.kernels.layout.rows import TaskRows, require_rows, rows_to_sum, task_gradients_of, wide


def _triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels import gelu_kernels

    return gelu_kernels


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, bias_gradients: Tensor | None, rows: TaskRows | None) -> Tensor:
        ctx.launchers = launchers("bias_gelu", x, _triton)
        if ctx.launchers:
            z, y = ctx.launchers.gelu_forward(x, bias)
        else:
            z = x + bias.to(x.dtype)
            y = functional.gelu(z)
        ctx.save_for_backward(z)
        ctx.bias_gradients, ctx.rows = bias_gradients, rows
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        if ctx.launchers:
            target = ctx.bias_gradients
            deposits, offsets_and_add = target is not None, rows_to_sum(target, ctx.rows, z)
            if not deposits:
                target = torch.empty(1, z.shape[1], device=z.device)
            dz = ctx.launchers.gelu_backward(dy, z, target, *offsets_and_add)
            return dz, None if deposits else target[0], None, None
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
