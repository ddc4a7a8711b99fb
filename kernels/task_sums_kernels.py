"""Sums over each task's rows, in two stages without atomics, so that the same call twice gives the same bits.

Stage one: a program owns a tile of consecutive rows. Where a task's rows begin or end inside the tile, it keeps one
sum a task. The sum of task t in tile i goes to slot i + t: along the rows, the pair (tile, task) grows in one number or
both and falls in neither, so slots are unique and those of one task are consecutive. Stage two adds the slots of each
task in order.

Stage one belongs to the op whose pass over the rows it shares. Here are stage two, and the sum that shares no pass: a
linear layer's bias, whose columns are many enough for a program to own some of one task's, without a second stage. It
reads rows * n elements once and writes T * n.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import launcher

_PROGRAMS = 512  # how many stage one aims at: about four for each multiprocessor of a large GPU
_STEP, _COLUMNS = 256, 32  # the plain sum: rows read at once, and columns a program
_SLOTS, _COLLECTED = 32, 64  # stage two: slots read at once, and columns a program


def tile_rows(rows: int, step: int, programs_a_tile: int = 1) -> int:
    """How many rows a program of stage one owns: a multiple of `step`, the rows of its inner loop."""
    tiles = max(1, _PROGRAMS // programs_a_tile)
    return max(1, triton.cdiv(rows, tiles * step)) * step


def new_partials(sums: int, offsets: Tensor, rows: int, tile: int, columns: int) -> Tensor:
    """Room for the slots of `sums` different sums, each a vector of `columns`: fp32 [sums, slots, columns]."""
    slots = triton.cdiv(rows, tile) + len(offsets) - 1
    return torch.empty(sums, slots, columns, dtype=torch.float32, device=offsets.device)


@triton.jit
def task_span(offsets, task, tasks, rows):
    """The first row of `task` and the one after its last. Rows after the last task's count to it: they hold zeros."""
    start = tl.load(offsets + task)
    stop = tl.load(offsets + task + 1)
    return start, tl.where(task == tasks - 1, rows, stop)


@triton.jit(do_not_specialize=["rows"])
def _column_sums_kernel(
    values,
    gradients,
    stride,
    offsets,
    rows,
    columns,
    ACCUMULATE: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The plain sum of one task's rows in COLUMNS columns.

    values: [rows, columns] in fp32, fp16 or bf16, what is summed.
    gradients: [tasks, columns] in fp32, fp16 or bf16, written.
    stride: int, elements of gradients from one task to the next.
    offsets: int32 [tasks + 1], where each task's rows begin.
    rows, columns: int, the shape of values.
    """
    task = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    valid = column < columns
    start, stop = task_span(offsets, task, tl.num_programs(1), rows)
    total = tl.zeros([STEP, COLUMNS], tl.float32)
    for first in range(start, stop, STEP):
        row = first + tl.arange(0, STEP)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        total += tl.load(values + at, mask=(row < stop)[:, None] & valid[None, :], other=0.0).to(tl.float32)
    result = tl.sum(total, 0)
    target = gradients + task.to(tl.int64) * stride + column  # T * P passes 2^31
    if ACCUMULATE:
        result += tl.load(target, mask=valid, other=0.0).to(tl.float32)
    tl.store(target, result, mask=valid)


@triton.jit(do_not_specialize=["tasks", "rows", "slots", "tile_rows"])
def _collect_task_sums_kernel(
    partials,
    first_gradients,
    second_gradients,
    third_gradients,
    first_stride,
    second_stride,
    third_stride,
    offsets,
    tasks,
    rows,
    columns,
    slots,
    tile_rows,
    ACCUMULATE: tl.constexpr,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Stage two: the slots of one task and one of up to three sums, added up in COLUMNS columns.

    partials: fp32 [sums, slots, columns], what stage one has written.
    first_gradients: [tasks, columns] in fp32, fp16 or bf16, written: the task gradients of the first sum.
    second_gradients: [tasks, columns] in the same dtype, written: those of the second sum; not used without one.
    third_gradients: [tasks, columns] in the same dtype, written: those of the third sum; not used without one.
    first_stride, second_stride, third_stride: int, elements from one task to the next in each.
    offsets: int32 [tasks + 1], where each task's rows begin.
    tasks, rows, columns, slots, tile_rows: int; slots: of each sum; tile_rows: the rows of a tile of stage one.
    """
    task, which = tl.program_id(1), tl.program_id(2)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    valid = column < columns
    start, stop = task_span(offsets, task, tasks, rows)
    total = tl.zeros([COLUMNS], tl.float32)
    if start < stop:
        last_slot = (stop - 1) // tile_rows + task
        for first in range(start // tile_rows + task, last_slot + 1, SLOTS):
            slot = first + tl.arange(0, SLOTS)
            at = (which * slots + slot).to(tl.int64)[:, None] * columns + column[None, :]
            total += tl.sum(tl.load(partials + at, mask=(slot <= last_slot)[:, None] & valid[None, :], other=0.0), 0)
    wide_task = task.to(tl.int64)  # T * P passes 2^31
    # Without branches: Triton 3.6 compiles no branch for AMD that chooses between pointers.
    gradients = tl.where(which == 0, first_gradients, tl.where(which == 1, second_gradients, third_gradients))
    stride = tl.where(which == 0, first_stride, tl.where(which == 1, second_stride, third_stride))
    target = gradients + wide_task * stride + column
    if ACCUMULATE:
        total += tl.load(target, mask=valid, other=0.0).to(tl.float32)
    tl.store(target, total, mask=valid)


def collect(partials: Tensor, gradients: tuple[Tensor, ...], offsets: Tensor, rows: int, tile: int, add: bool) -> None:
    """Stage two: add up the slots of `partials` [sums, slots, n] into as many task gradients.

    gradients: one to three tensors [T, n] of one dtype, each with contiguous rows; rows, tile: those of stage one;
    add: to what stands there, instead of overwriting it. Launches one kernel, inside of a `launcher`.
    """
    sums, slots, columns = partials.shape
    tasks = len(offsets) - 1
    first, second, third = (gradients + gradients[-1:] * 2)[:3]
    _collect_task_sums_kernel[(triton.cdiv(columns, _COLLECTED), tasks, sums)](
        partials,
        first,
        second,
        third,
        first.stride(0),
        second.stride(0),
        third.stride(0),
        offsets,
        tasks,
        rows,
        columns,
        slots,
        tile,
        ACCUMULATE=add,
        SLOTS=_SLOTS,
        COLUMNS=_COLLECTED,
    )


@launcher(lambda *arguments: None, mutates=("gradients",))
def task_sums(values: Tensor, gradients: Tensor, offsets: Tensor, add: bool, first: int = 0) -> None:
    """Sum each task's rows of `values` [rows, n] into `gradients` [T, n or more] from `first` on, or add the sums."""
    rows, columns = values.shape
    gradients = gradients[:, first : first + columns]
    _column_sums_kernel[(triton.cdiv(columns, _COLUMNS), len(offsets) - 1)](
        values.contiguous(),
        gradients,
        gradients.stride(0),
        offsets,
        rows,
        columns,
        ACCUMULATE=add,
        STEP=_STEP,
        COLUMNS=_COLUMNS,
    )
