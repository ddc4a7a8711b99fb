"""Task gradients written to where they are kept: sums and products over each task's rows."""

from typing import Any

import torch
from torch import Tensor

from concord.kernels.dispatch import launchers, uses_triton
from concord.kernels.layout.rows import TaskRows, wide
from concord.kernels.products import linear_product, takes_onednn


def _triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels import task_sums_kernels

    return task_sums_kernels


def deposit(target: Tensor, value: Tensor, accumulate: bool) -> None:
    """Write `value` into `target` of the same shape, or add it, in target's dtype."""
    if accumulate:
        target.add_(value)
    else:
        target.copy_(value)


def deposit_sum(gradients: Tensor, rows: TaskRows, values: Tensor, first: int = 0) -> None:
    """Deposit the sum over each task's rows of `values` [rows, n] into `gradients` [T, n or more], from `first` on."""
    if kernels := launchers("task_sums", values, _triton):
        kernels.task_sums(values, gradients, rows.offsets, rows.accumulate, first)
        return
    for task, span in rows.slices():
        total = values[span].sum(0, dtype=wide(values.dtype))
        deposit(gradients[task, first : first + len(total)], total, rows.accumulate)


def deposit_product(gradients: Tensor, rows: TaskRows, left: Tensor, right: Tensor, first: int = 0) -> None:
    """Deposit `left[rows_t]^T @ right[rows_t]` into `gradients` [T, m or more, n], from row `first` on, for every task.

    left: [rows, m]; right: [rows, n]; both of one dtype. The products are 2 * rows * m * n operations over all tasks
    together, as many as one undivided weight gradient.
    """
    if uses_triton("task_products", left):
        from concord.kernels.task_products_kernels import task_products

        task_products(left, right, gradients, rows.offsets, rows.accumulate, first, first + left.shape[1])
        return
    for task, span in rows.slices():
        target = gradients[task, first : first + left.shape[1]]
        if target.dtype != left.dtype or takes_onednn(left):
            deposit(target, linear_product(left[span].t(), right[span].t()), rows.accumulate)
        elif rows.accumulate:
            target.addmm_(left[span].t(), right[span])
        else:
            torch.mm(left[span].t(), right[span], out=target)
