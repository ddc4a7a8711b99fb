"""bias + dropout + residual + LayerNorm in one op: y = LayerNorm(residual + dropout(x + bias)) (Ba et al., 2016).

Statistics and sums are fp32 whatever the activations' dtype. Forward at [rows, n]: x and residual read, the sum z and y
written; backward: dy and z read, the gradients of residual and x written (one and the same without dropout), and the
task gradients of gamma, beta and bias summed in the same pass. That is 4 * rows * n elements each way: at bf16 and 4.3
TB/s, 1.9 ns a row of 1,024.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import launcher, uses_triton
from kernels.dropout import Dropout, kernel_arguments, row_dropout_factors
from kernels.rows import TaskRows, deposit, deposit_sum, require_rows, task_gradients_of, wide
from kernels.task_sums import collect, new_partials, one_task, task_span, tile_rows


def tile_shape(columns: int) -> dict[str, int]:
    """Rows and columns of a kernel's tile, and warps: a whole row, or a few where rows are short.

    Eight elements a thread fill its loads; with more, the backward's three sums would not leave room for enough warps
    to hide the memory's latency.
    """
    width = triton.next_power_of_2(columns)
    return {"STEP": max(1, 1024 // width), "COLUMNS": width, "num_warps": 4 if width <= 1024 else 8}


@triton.jit
def normalise(z, gamma, beta, valid, columns, epsilon):
    """LayerNorm of the rows of `z`, fp32 [rows, COLUMNS], zero where not `valid`: y, mean [rows] and 1/std [rows]."""
    mean = tl.sum(z, 1) / columns
    centred = tl.where(valid, z - mean[:, None], 0.0)
    inverse_std = tl.rsqrt(tl.sum(centred * centred, 1) / columns + epsilon)
    return centred * inverse_std[:, None] * gamma[None, :] + beta[None, :], mean, inverse_std


@triton.jit
def normalise_backward(dy, z, mean, inverse_std, gamma, valid, columns):
    """LayerNorm's gradient: dz, and each row's share in gamma's gradient; all fp32 [rows, COLUMNS]."""
    normal = tl.where(valid, (z - mean[:, None]) * inverse_std[:, None], 0.0)
    scaled = dy * gamma[None, :]
    along = tl.sum(scaled * normal, 1) / columns
    average = tl.sum(scaled, 1) / columns
    return (scaled - average[:, None] - normal * along[:, None]) * inverse_std[:, None], dy * normal


@triton.jit(do_not_specialize=["rows", "site"])
def _forward_kernel(
    x,
    bias,
    residual,
    gamma,
    beta,
    y,
    z,
    mean,
    inverse_std,
    rows,
    columns,
    epsilon,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * STEP + tl.arange(0, STEP)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    valid = (row < rows)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    total = tl.load(x + at, mask=valid, other=0.0).to(tl.float32)
    total += tl.load(bias + column, mask=inside, other=0.0)[None, :]
    if DROPOUT:
        total *= row_dropout_factors(tl.load(seed), row, 0, columns, site, threshold, scale, COLUMNS // 8)
    total += tl.load(residual + at, mask=valid, other=0.0).to(tl.float32)
    # The backward reads the rounded sum: statistics and result belong to the same value.
    rounded = total.to(z.dtype.element_ty)
    tl.store(z + at, rounded, mask=valid)
    weight = tl.load(gamma + column, mask=inside, other=0.0)
    shift = tl.load(beta + column, mask=inside, other=0.0)
    normal, row_mean, row_inverse = normalise(rounded.to(tl.float32), weight, shift, valid, columns, epsilon)
    tl.store(y + at, normal, mask=valid)
    tl.store(mean + row, row_mean, mask=row < rows)
    tl.store(inverse_std + row, row_inverse, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "tile_rows", "slots", "site"])
def _backward_kernel(
    dy,
    z,
    mean,
    inverse_std,
    gamma,
    dz,
    dx,
    partials,
    offsets,
    tasks,
    rows,
    columns,
    slots,
    tile_rows,
    seed,
    site,
    threshold,
    scale,
    ADDED: tl.constexpr,
    DROPOUT: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ADDED: whether LayerNorm's input is residual + dropout(x + bias); otherwise the dropout is one of its result."""
    tile = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    weight = tl.load(gamma + column, mask=inside, other=0.0)
    tile_start, tile_stop = tile * tile_rows, tl.minimum((tile + 1) * tile_rows, rows)
    for task in range(tasks):
        start, stop = task_span(offsets, task, tasks, rows)
        start, stop = tl.maximum(start, tile_start), tl.minimum(stop, tile_stop)
        if start < stop:
            gamma_sum = tl.zeros([STEP, COLUMNS], tl.float32)
            beta_sum = tl.zeros([STEP, COLUMNS], tl.float32)
            bias_sum = tl.zeros([STEP, COLUMNS], tl.float32)
            for first in range(start, stop, STEP):
                row = first + tl.arange(0, STEP)
                valid = (row < stop)[:, None] & inside[None, :]
                at = row.to(tl.int64)[:, None] * columns + column[None, :]
                upstream = tl.load(dy + at, mask=valid, other=0.0).to(tl.float32)
                if DROPOUT and not ADDED:
                    upstream *= row_dropout_factors(
                        tl.load(seed), row, 0, columns, site, threshold, scale, COLUMNS // 8
                    )
                value = tl.load(z + at, mask=valid, other=0.0).to(tl.float32)
                row_mean = tl.load(mean + row, mask=row < stop, other=0.0)
                row_inverse = tl.load(inverse_std + row, mask=row < stop, other=0.0)
                gradient, gamma_share = normalise_backward(
                    upstream, value, row_mean, row_inverse, weight, valid, columns
                )
                # Masked stores and sums need no zeros here, but without them a variant spills on sm_100.
                gradient = tl.where(valid, gradient, 0.0)
                tl.store(dz + at, gradient, mask=valid)
                gamma_sum += gamma_share
                beta_sum += upstream
                if ADDED:
                    if DROPOUT:
                        gradient *= row_dropout_factors(
                            tl.load(seed), row, 0, columns, site, threshold, scale, COLUMNS // 8
                        )
                        tl.store(dx + at, gradient, mask=valid)
                    bias_sum += gradient
            slot = partials + (tile + task).to(tl.int64) * columns + column
            size = slots.to(tl.int64) * columns
            tl.store(slot, tl.sum(gamma_sum, 0), mask=inside)
            tl.store(slot + size, tl.sum(beta_sum, 0), mask=inside)
            if ADDED:
                tl.store(slot + 2 * size, tl.sum(bias_sum, 0), mask=inside)


def _statistics(rows: int, like: Tensor) -> Tensor:
    return torch.empty(rows, dtype=torch.float32, device=like.device)


@launcher(
    lambda x, *rest: (torch.empty_like(x), torch.empty_like(x), _statistics(len(x), x), _statistics(len(x), x)),
)
def _forward(
    x: Tensor,
    bias: Tensor,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    seed: Tensor | None,
    site: int,
    threshold: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y and z like x [rows, n]; mean and 1/std, fp32 [rows]."""
    rows, columns = x.shape
    x, residual = x.contiguous(), residual.contiguous()
    y, z, mean, inverse_std = torch.empty_like(x), torch.empty_like(x), _statistics(rows, x), _statistics(rows, x)
    shape = tile_shape(columns)
    _forward_kernel[(triton.cdiv(rows, shape["STEP"]),)](
        x,
        bias,
        residual,
        gamma,
        beta,
        y,
        z,
        mean,
        inverse_std,
        rows,
        columns,
        epsilon,
        seed,
        site,
        threshold,
        scale,
        DROPOUT=seed is not None,
        **shape,
    )
    return y, z, mean, inverse_std


def _new_backward(z: Tensor, bias_gradients: Tensor | None, seed: Tensor | None) -> tuple[Tensor, Tensor]:
    has_dx = bias_gradients is not None and seed is not None
    return torch.empty_like(z), torch.empty_like(z) if has_dx else z.new_empty(0)


@launcher(
    lambda *given: _new_backward(given[1], given[7], given[10]),
    mutates=("gamma_gradients", "beta_gradients", "bias_gradients"),
)
def norm_backward(
    dy: Tensor,
    z: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    gamma: Tensor,
    gamma_gradients: Tensor,
    beta_gradients: Tensor,
    bias_gradients: Tensor | None,
    offsets: Tensor,
    add: bool,
    seed: Tensor | None,
    site: int,
    threshold: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The backward of LayerNorm's kernels, and of the dropout and the bias beside it.

    bias_gradients: given where z is residual + dropout(x + bias); without them the dropout is one of LayerNorm's
    result. Sums over each task's rows go to the gradients, [T, n] each. Returns dz like z [rows, n] and, where there
    is a dropout within z, dx like it.
    """
    rows, columns = z.shape
    dz, dx = _new_backward(z, bias_gradients, seed)
    shape = tile_shape(columns)
    tile = tile_rows(rows, shape["STEP"])
    targets = (gamma_gradients, beta_gradients) + (() if bias_gradients is None else (bias_gradients,))
    partials = new_partials(len(targets), offsets, rows, tile, columns)
    _backward_kernel[(triton.cdiv(rows, tile),)](
        dy.contiguous(),
        z,
        mean,
        inverse_std,
        gamma,
        dz,
        dx,
        partials,
        offsets,
        len(offsets) - 1,
        rows,
        columns,
        partials.shape[1],
        tile,
        seed,
        site,
        threshold,
        scale,
        ADDED=bias_gradients is not None,
        DROPOUT=seed is not None,
        **shape,
    )
    collect(partials, targets, offsets, rows, tile, add)
    return dz, dx


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
        ctx.gradients, ctx.rows, ctx.dropout, ctx.triton = gradients, rows, dropout, uses_triton(x)
        if ctx.triton:
            arguments = kernel_arguments(dropout, x.shape[1])
            y, z, mean, inverse_std = _forward(x, bias, residual, gamma, beta, epsilon, *arguments)
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
        if ctx.triton:
            return _AddLayerNorm._backward_triton(ctx, dy)
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
    def _backward_triton(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, mean, inverse_std, gamma = ctx.saved_tensors
        bias_gradients, gamma_gradients, beta_gradients = ctx.gradients
        deposits = bias_gradients is not None
        if deposits:
            rows = require_rows(ctx.rows)
            offsets, add = rows.offsets, rows.accumulate
        else:
            bias_gradients, gamma_gradients, beta_gradients = torch.empty(3, 1, z.shape[1], device=z.device)
            offsets, add = one_task(len(z), z.device), False
        targets = (gamma_gradients, beta_gradients, bias_gradients)
        arguments = kernel_arguments(ctx.dropout, z.shape[1])
        dz, dx = norm_backward(dy, z, mean, inverse_std, gamma, *targets, offsets, add, *arguments)
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
