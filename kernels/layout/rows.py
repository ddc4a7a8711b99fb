"""Which rows of a packed tensor belong to which task, and where a weight's task gradients are deposited.

Rows of different tasks never interact inside the encoder, so the backward of the sum of the losses carries each
task's own gradient in that task's rows. An op with weights therefore yields one gradient a task in one backward:
the reduction over the rows of that task alone. It writes them to the parameter's `task_gradients [T, *shape]`,
an attribute that `kernels.layout.flat.FlatParameters` sets. A parameter without that attribute gets its ordinary
gradient, the sum over all rows, through autograd.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_deposits = True


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """The contiguous rows of each task in a packed tensor.

    offsets: int32 [T+1] on the device; task t owns rows offsets[t] to offsets[t+1], none where both are equal.
    bounds: the same numbers on the host, so that nothing has to be read back; None where only the device knows them,
        which is enough for the kernels and too little for the references.
    accumulate: add to the task gradients (from the second micro-batch of a step on) instead of overwriting them.
    """

    offsets: Tensor
    bounds: tuple[int, ...] | None
    accumulate: bool = False

    @classmethod
    def of_counts(
        cls, counts: Sequence[int], device: torch.device | str = "cpu", *, accumulate: bool = False
    ) -> "TaskRows":
        """Rows of which each task owns as many as `counts` says, in order."""
        bounds = (0, *itertools.accumulate(counts))
        offsets = torch.tensor(bounds, dtype=torch.int32).to(device, non_blocking=True)
        return cls(offsets=offsets, bounds=bounds, accumulate=accumulate)

    def slices(self) -> Iterator[tuple[int, slice]]:
        """Each task with its rows, in order; RuntimeError where the host does not know them."""
        if self.bounds is None:
            raise RuntimeError("the rows of each task are on the device alone, and the torch reference needs them")
        for task, (start, stop) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            yield task, slice(start, stop)


def task_gradients_of(parameter: Tensor | None) -> Tensor | None:
    """Where the gradients of `parameter` are deposited: [T, *parameter.shape], or None for ordinary autograd."""
    return getattr(parameter, "task_gradients", None) if _deposits else None


@contextmanager
def without_deposits() -> Iterator[None]:
    """Within this context ops are recorded for ordinary autograd: their backward leaves all task gradients alone."""
    global _deposits
    before, _deposits = _deposits, False
    try:
        yield
    finally:
        _deposits = before


def part(parameter: Tensor, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of a parameter, whose gradients are deposited into the same rows of its task gradients.

    The piece names the first of these rows, `first_row`, and keeps the whole: torch.compile misplaces what is written
    to a slice of a view (torch 2.13). It has its part of the compute copy, too.
    """
    piece = parameter[start:stop]
    gradients = task_gradients_of(parameter)
    if gradients is not None:
        piece.task_gradients, piece.first_row = gradients, start
    copy = getattr(parameter, "compute_copy", None)
    if copy is not None:
        piece.compute_copy = copy[start:stop]
    return piece


def first_row_of(parameter: Tensor) -> int:
    """The row of `task_gradients` where those of `parameter`, which may be a part, begin."""
    return getattr(parameter, "first_row", 0)


def in_dtype(vector: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter of fp32, or a `part` of one, in `dtype`: the compute copy, where it has one in that dtype."""
    copy = getattr(vector, "compute_copy", None)
    if copy is not None and copy.dtype == dtype:
        return copy
    return vector.detach().to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums and statistics over values of `dtype` are kept in: fp32, and fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def one_task(rows: int, device: torch.device) -> Tensor:
    """Offsets of a single task that owns all rows: its task gradient is the ordinary gradient. int32 [2]."""
    return torch.arange(2, dtype=torch.int32, device=device) * rows  # made there, so that nothing is copied


def rows_to_sum(gradients: Tensor | None, rows: TaskRows | None, values: Tensor) -> tuple[Tensor, bool]:
    """Where the rows begin that a launcher sums `values` over, int32 [T + 1], and whether it adds to what stands there.

    gradients: the task gradients that the sums go to: each task's rows, and a ValueError without `rows`; None for
    ordinary autograd: all rows as those of one task.
    """
    if gradients is None:
        return one_task(len(values), values.device), False
    rows = require_rows(rows)
    return rows.offsets, rows.accumulate


def require_rows(rows: TaskRows | None) -> TaskRows:
    """`rows`, or a ValueError where a deposit was asked for without them."""
    if rows is None:
        raise ValueError("a parameter has task_gradients, but the op was called without the rows of each task")
    return rows
