"""Sums of products of every pair of tasks' gradients: what Gram matrices are made of.

Few tasks, and fp32, keep a sum a pair and column in a thread's registers, the lower triangle of pairs row by row:
(0, 0), (1, 0), (1, 1), (2, 0), ... Of more tasks that would leave a thread a column or two, which are read two or four
bytes at a time: there gradients of 16 bits are a tile [ROWS, COLUMNS] that is multiplied by its transpose. The products
are exact in fp32.
"""

import torch
import triton
import triton.language as tl

from concord.kernels.dispatch import architecture

ROWS = 16  # of a tile, which products need at least, and which is as many tasks as there may be
_FEW_TASKS = 4  # whose pairs leave room for full loads
_TILE = 512  # columns of a tile: the fewer are multiplied at once, the less a matrix unit's own sums lose


def multiplies_tiles(gradients_dtype: torch.dtype, tasks: int, device: torch.device) -> bool:
    """Whether the tasks' gradients are multiplied as tiles: many, of 16 bits, on what has matrix units for those."""
    has_units = architecture(device) == "hip" or int(architecture(device)) >= 8
    return gradients_dtype.itemsize == 2 and tasks > _FEW_TASKS and has_units


def tile_columns(most: int) -> int:
    """The columns of a tile, `most` at most."""
    return min(most, _TILE)


@triton.jit
def tile_products(values, COLUMNS: tl.constexpr):
    """The products of all pairs of rows of `values` [ROWS, COLUMNS] in 16 bits, fp32 [ROWS, ROWS].

    They are to be added up in registers, and not within the matrix units, which cut sums off instead of rounding them:
    what is said of imprecise sums keeps the compiler from making one product of both.
    """
    return tl.dot(values, tl.trans(values), max_num_imprecise_acc=COLUMNS)


@triton.jit
def store_tile(totals, target, stride, TASKS: tl.constexpr, ROWS: tl.constexpr):
    """The sums `totals` [ROWS, ROWS] to `target` [TASKS, TASKS] with a distance of `stride` from one to the next.

    The lower triangle is taken for both.
    """
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :]
    lower = (j <= i) & (i < TASKS)
    tl.store(target + (i * TASKS + j) * stride, totals, mask=lower)
    tl.store(target + (j * TASKS + i) * stride, totals, mask=lower & (j < i))


def columns_at_once(tasks: int, most: int) -> int:
    """Columns a program takes at once, `most` at most: a thread holds a sum for each pair of tasks and column of its
    own, so that many pairs leave room for fewer columns."""
    return min(most, 1024 if tasks <= 4 else 256 if tasks <= 8 else 128)


@triton.jit
def no_products(TASKS: tl.constexpr, COLUMNS: tl.constexpr):
    """Zero for each pair, fp32 [COLUMNS]."""
    totals = ()
    for _ in tl.static_range(TASKS * (TASKS + 1) // 2):
        totals = totals + (tl.zeros([COLUMNS], tl.float32),)
    return totals


@triton.jit
def add_products(totals, values, TASKS: tl.constexpr):
    """`totals` and the products of `values`, a tuple of one fp32 [COLUMNS] a task."""
    added = ()
    for i in tl.static_range(TASKS):
        for j in tl.static_range(i + 1):
            added = added + (totals[i * (i + 1) // 2 + j] + values[i] * values[j],)
    return added


@triton.jit
def store_products(totals, target, stride, TASKS: tl.constexpr):
    """Each pair's sum over the columns, to `target` [TASKS, TASKS] with a distance of `stride` from one to the next."""
    for i in tl.static_range(TASKS):
        for j in tl.static_range(i + 1):
            total = tl.sum(totals[i * (i + 1) // 2 + j], 0)
            tl.store(target + (i * TASKS + j) * stride, total)
            if i != j:
                tl.store(target + (j * TASKS + i) * stride, total)
