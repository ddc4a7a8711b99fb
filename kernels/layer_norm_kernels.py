"""LayerNorm's Triton kernels: with bias, dropout and residual before it, and the backward that the embedding shares."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import architecture, launcher
from concord.kernels.dropout_kernels import require_whole_calls, row_dropout_factors
from concord.kernels.task_sums_kernels import collect, new_partials, task_span, tile_rows


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
def _layer_norm_forward_kernel(
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
    """z = residual + dropout(x + bias) and its LayerNorm, of STEP rows.

    x: [rows, columns] in the compute dtype, what the bias is added to.
    bias: fp32 [columns].
    residual: like x.
    gamma: fp32 [columns], LayerNorm's scale.
    beta: fp32 [columns], LayerNorm's shift.
    y: like x, written: the result.
    z: like x, written: LayerNorm's input, rounded.
    mean: fp32 [rows], written.
    inverse_std: fp32 [rows], written: 1 over the standard deviation.
    rows, columns, epsilon: int, int, float; epsilon: added to the variance.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
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
def _layer_norm_backward_kernel(
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
    """dz and dx of a tile of rows, and its shares in each task's gradients of gamma, beta and bias.

    dy: [rows, columns] in the compute dtype, the gradient of the result.
    z: like dy, LayerNorm's input.
    mean: fp32 [rows], of the forward.
    inverse_std: fp32 [rows], of the forward.
    gamma: fp32 [columns].
    dz: like dy, written: the gradient of z.
    dx: like dy, written where ADDED and DROPOUT: that of x; otherwise not used.
    partials: fp32 [2 or 3, slots, columns], written: gamma's, beta's and, where ADDED, the bias's sums by slot.
    offsets: int32 [tasks + 1], where each task's rows begin.
    tasks, rows, columns, slots, tile_rows: int; tile_rows: the rows of a tile.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    ADDED: whether z is residual + dropout(x + bias); otherwise the dropout is one of LayerNorm's result.
    """
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
def add_norm_forward(
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
    """z = residual + dropout(x + bias) and LayerNorm's y, like x [rows, n]; mean and 1/std, fp32 [rows]."""
    rows, columns = x.shape
    require_whole_calls(seed, columns)
    x, residual = x.contiguous(), residual.contiguous()
    y, z, mean, inverse_std = torch.empty_like(x), torch.empty_like(x), _statistics(rows, x), _statistics(rows, x)
    shape = tile_shape(columns)
    _layer_norm_forward_kernel[(triton.cdiv(rows, shape["STEP"]),)](
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
    require_whole_calls(seed, columns)
    dz, dx = _new_backward(z, bias_gradients, seed)
    shape = tile_shape(columns)
    if z.element_size() == 4:
        # Four elements of fp32 fill a thread's loads. Left to itself, ptxas would rather spill than take 64 registers.
        shape["num_warps"] *= 2
        if architecture(z.device) != "hip":
            shape["maxnreg"] = 64
    tile = tile_rows(rows, shape["STEP"])
    targets = (gamma_gradients, beta_gradients) + (() if bias_gradients is None else (bias_gradients,))
    partials = new_partials(len(targets), offsets, rows, tile, columns)
    _layer_norm_backward_kernel[(triton.cdiv(rows, tile),)](
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
