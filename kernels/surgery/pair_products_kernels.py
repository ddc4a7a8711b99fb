"""Sums of products of every pair of tasks' gradients, kept a column a thread: what Gram matrices are made of.

The lower triangle of pairs, row by row: (0, 0), (1, 0), (1, 1), (2, 0), ...
"""

import triton
import triton.language as tl


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
