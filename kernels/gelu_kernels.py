"""The Triton kernels of bias + GELU, and what launches them: see `kernels.gelu` for the op."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import launcher
from concord.kernels.task_sums_kernels import collect, new_partials, task_span, tile_rows

_STEP, _COLUMNS = 4, 512  # rows that a program reads at once, and its columns


@triton.jit(do_not_specialize=["rows"])
def _gelu_forward_kernel(x, bias, z, y, rows, columns, STEP: tl.constexpr, COLUMNS: tl.constexpr):
    """z and gelu(z) of STEP rows and COLUMNS columns.

    x: [rows, columns] in the compute dtype, what the bias is added to.
    bias: fp32 [columns].
    z: like x, written: x + bias, rounded.
    y: like x, written: gelu(z).
    rows, columns: int, the shape of x.
    """
    row = tl.program_id(0) * STEP + tl.arange(0, STEP)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = (row < rows)[:, None] & (column < columns)[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    shift = tl.load(bias + column, mask=column < columns, other=0.0)
    total = tl.load(x + at, mask=valid, other=0.0).to(tl.float32) + shift[None, :]
    tl.store(z + at, total, mask=valid)
    # The backward reads the rounded sum: the result belongs to the same value.
    total = total.to(z.dtype.element_ty).to(tl.float32)
    tl.store(y + at, 0.5 * total * (1 + tl.math.erf(total * 0.7071067811865476)), mask=valid)


@triton.jit(do_not_specialize=["tasks", "rows", "tile_rows"])
def _gelu_backward_kernel(
    dy, z, dz, partials, offsets, tasks, rows, columns, tile_rows, STEP: tl.constexpr, COLUMNS: tl.constexpr
):
    """dz of a tile of rows and COLUMNS columns, and the tile's share in the bias's gradient of each task.

    dy: [rows, columns] in the compute dtype, the gradient of y.
    z: like dy, of the forward.
    dz: like dy, written.
    partials: fp32 [slots, columns], written: sums over dz by slot, see `kernels.task_sums_kernels`.
    offsets: int32 [tasks + 1], where each task's rows begin.
    tasks, rows, columns, tile_rows: int; tile_rows: the rows of a tile.
    """
    tile = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = column < columns
    tile_start, tile_stop = tile * tile_rows, tl.minimum((tile + 1) * tile_rows, rows)
    for task in range(tasks):
        start, stop = task_span(offsets, task, tasks, rows)
        start, stop = tl.maximum(start, tile_start), tl.minimum(stop, tile_stop)
        if start < stop:
            total = tl.zeros([STEP, COLUMNS], tl.float32)
            for first in range(start, stop, STEP):
                row = first + tl.arange(0, STEP)
                mask = (row < stop)[:, None] & valid[None, :]
                at = row.to(tl.int64)[:, None] * columns + column[None, :]
                value = tl.load(z + at, mask=mask, other=0.0).to(tl.float32)
                # gelu'(z) = Phi(z) + z * phi(z), the normal distribution and its density.
                slope = 0.5 * (1 + tl.math.erf(value * 0.7071067811865476))
                slope += value * tl.exp(-0.5 * value * value) * 0.3989422804014327
                gradient = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32) * slope
                tl.store(dz + at, gradient, mask=mask)
                total += gradient
            tl.store(partials + (tile + task).to(tl.int64) * columns + column, tl.sum(total, 0), mask=valid)


@launcher(lambda x, bias: (torch.empty_like(x), torch.empty_like(x)))
def gelu_forward(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """z and gelu(z), both like x [rows, n]."""
    rows, columns = x.shape
    x = x.contiguous()
    z, y = torch.empty_like(x), torch.empty_like(x)
    grid = (triton.cdiv(rows, _STEP), triton.cdiv(columns, _COLUMNS))
    _gelu_forward_kernel[grid](x, bias, z, y, rows, columns, STEP=_STEP, COLUMNS=_COLUMNS)
    return z, y


@launcher(lambda dy, z, bias_gradients, offsets, add: torch.empty_like(z), mutates=("bias_gradients",))
def gelu_backward(dy: Tensor, z: Tensor, bias_gradients: Tensor, offsets: Tensor, add: bool) -> Tensor:
    """dz like z [rows, n]; its sums over each task's rows go to `bias_gradients` [T, n]."""
    rows, columns = z.shape
    dy, dz = dy.contiguous(), torch.empty_like(z)
    programs = triton.cdiv(columns, _COLUMNS)
    tile = tile_rows(rows, _STEP, programs)
    partials = new_partials(1, offsets, rows, tile, columns)
    _gelu_backward_kernel[(triton.cdiv(rows, tile), programs)](
        dy, z, dz, partials, offsets, len(offsets) - 1, rows, columns, tile, STEP=_STEP, COLUMNS=_COLUMNS
    )
    collect(partials, (bias_gradients,), offsets, rows, tile, add)
    return dz
