"""bias + dropout + residual + LayerNorm in one op: y = LayerNorm(residual + dropout(x + bias)) (Ba et al., 2016).

Statistics and sums are fp32 whatever the activations' dtype. Forward at [rows, n]: x and residual read, the sum z and y
written; backward: dy and z read, the gradients of residual and x written (one and the same without dropout), and the
task gradients of gamma, beta and bias summed in the same pass. That is 4 * rows * n elements each way: at bf16 and 4.3
TB/s, 1.9 ns a row of 1,024.
"""

from typing import Any

import torch
from torch import Tensor

from concord.kernels.deposits import deposit, deposit_sum
from concord.kernels.dispatch import launchers
from concord.kernels.dropout import Dropout, kernel_arguments
from concord.kernels.layout.rows import TaskRows, require_rows, rows_to_sum, task_gradients_of, wide


def _triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels import layer_norm_kernels

    return layer_norm_kernels


def layer_norm_forward(z: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """The reference of LayerNorm over the last axis of `z` [rows, n]: y like z, and fp32 mean and 1/std [rows, 1]."""
    dtype = wide(z.dtype)
    y, mean, inverse_std = torch.native_layer_norm(
        z.to(dtype), (z.shape[-1],), gamma.to(dtype), beta.to(dtype), epsilon
    )
    return y.to(z.dtype), mean, inverse_std


def layer_norm_backward(
    dy: Tensor,
    z: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    gamma: Tensor,
    gradients: tuple[Tensor | None, Tensor | None],
    rows: TaskRows | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The reference of LayerNorm's gradient: (dz in dy's dtype, d_gamma, d_beta).

    gradients: where gamma's and beta's task gradients are deposited, [T, n] each; d_gamma and d_beta are None then.
    """
    gamma_gradients, beta_gradients = gradients
    if gamma_gradients is None or beta_gradients is None:
        return _norm_backward(dy, z, mean, inverse_std, gamma)
    rows = require_rows(rows)
    dz = torch.empty_like(dy)
    for task, span in rows.slices():
        dz[span], d_gamma, d_beta = _norm_backward(dy[span], z[span], mean[span], inverse_std[span], gamma)
        deposit(gamma_gradients[task], d_gamma, rows.accumulate)
        deposit(beta_gradients[task], d_beta, rows.accumulate)
    return dz, None, None


def _norm_backward(
    dy: Tensor, z: Tensor, mean: Tensor, inverse_std: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = wide(z.dtype)
    gamma = gamma.to(dtype)
    # Beta's values play no part in the gradient: gamma stands for its shape.
    dz, d_gamma, d_beta = torch.ops.aten.native_layer_norm_backward(
        dy.to(dtype), z.to(dtype), (z.shape[-1],), mean, inverse_std, gamma, gamma, (True, True, True)
    )
    return dz.to(dy.dtype), d_gamma, d_beta


class _AddLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor,
        residual: Tensor,
        gamma: Tensor,
        beta: Tensor,
        epsilon: float,
        dropout: Dropout | None,
        gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
        rows: TaskRows | None,
    ) -> Tensor:
        ctx.gradients, ctx.rows, ctx.dropout = gradients, rows, dropout
        ctx.launchers = launchers("add_layer_norm", x, _triton)
        if ctx.launchers:
            arguments = kernel_arguments(dropout)
            y, z, mean, inverse_std = ctx.launchers.add_norm_forward(
                x, bias, residual, gamma, beta, epsilon, *arguments
            )
            ctx.save_for_backward(z, mean, inverse_std, gamma)
            return y
        z = x + bias.to(x.dtype)
        mask = None
        if dropout is not None:
            mask = dropout.mask(tuple(x.shape), x.dtype)
            z *= mask
        z += residual
        y, mean, inverse_std = layer_norm_forward(z, gamma, beta, epsilon)
        ctx.save_for_backward(z, mean, inverse_std, gamma, mask)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.launchers:
            return _AddLayerNorm._launched_backward(ctx, dy)
        z, mean, inverse_std, gamma, mask = ctx.saved_tensors
        bias_gradients, *norm_gradients = ctx.gradients
        dz, d_gamma, d_beta = layer_norm_backward(dy, z, mean, inverse_std, gamma, tuple(norm_gradients), ctx.rows)
        dx = dz if mask is None else dz * mask
        d_bias = None
        if bias_gradients is not None:
            deposit_sum(bias_gradients, require_rows(ctx.rows), dx)
        else:
            d_bias = dx.sum(0, dtype=wide(dx.dtype))
        return dx, d_bias, dz, d_gamma, d_beta, None, None, None, None

    @staticmethod
    def _launched_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, mean, inverse_std, gamma = ctx.saved_tensors
        bias_gradients, gamma_gradients, beta_gradients = ctx.gradients
        deposits, (offsets, add) = bias_gradients is not None, rows_to_sum(bias_gradients, ctx.rows, z)
        if not deposits:
            bias_gradients, gamma_gradients, beta_gradients = torch.empty(3, 1, z.shape[1], device=z.device)
        targets = (gamma_gradients, beta_gradients, bias_gradients)
        arguments = kernel_arguments(ctx.dropout)
        dz, dx = ctx.launchers.norm_backward(dy, z, mean, inverse_std, gamma, *targets, offsets, add, *arguments)
        if ctx.dropout is None:
            dx = dz
        if deposits:
            return dx, None, dz, None, None, None, None, None, None
        return dx, bias_gradients[0], dz, gamma_gradients[0], beta_gradients[0], None, None, None, None


def add_layer_norm(
    x: Tensor,
    bias: Tensor,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    dropout: Dropout | None = None,
    rows: TaskRows | None = None,
) -> Tensor:
    """`LayerNorm(residual + dropout(x + bias)) * gamma + beta`.

    x, residual: [rows, n] in the compute dtype; bias, gamma, beta: fp32 [n]; epsilon: added to the variance; rows: the
    rows of each task, needed in the backward where the parameters have `task_gradients`. Returns [rows, n] like x.
    The kernels raise ValueError where there is a dropout and n is not a multiple of 8.
    """
    gradients = (task_gradients_of(bias), task_gradients_of(gamma), task_gradients_of(beta))
    return _AddLayerNorm.apply(x, bias, residual, gamma, beta, epsilon, dropout, gradients, rows)
