"""Which examples each step reads: what all samplers share, and joint batches, one of every task in each step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np

from concord.bert.errors import InputError, did_you_mean

_ENDS = {"largest": max, "smallest": min}  # which of all sets' batch counts is the length of an epoch

MicroBatch = dict[str, np.ndarray]
"""Task -> int64 indices of its examples; a task may have none."""


class Sampler(ABC):
    """The micro-batches of each step. What a step reads depends on the seed, the epoch and the step alone.

    A resumed run therefore needs no state of it. Each task has an endless stream of permutations of its set, and a step
    reads from it `accumulate` batches of the task, or none.

    Args:
        sizes: task -> number of training examples; InputError where there are none.
        batch_size: examples a micro-batch, of each task or task -> number.
        accumulate: micro-batches a step.
        seed: of the run.

    Attributes:
        steps_per_epoch: set by each sampler.
    """

    steps_per_epoch: int

    def __init__(
        self, sizes: Mapping[str, int], *, batch_size: int | Mapping[str, int], accumulate: int, seed: int
    ) -> None:
        for task, size in sizes.items():
            if size < 1:
                raise InputError(f"{task}: no training examples, expected at least one")
        self._sizes, self._accumulate, self._seed = dict(sizes), accumulate, seed
        self._batch_sizes = {task: batch_size if isinstance(batch_size, int) else batch_size[task] for task in sizes}
        self._numbers = {task: number for number, task in enumerate(sizes)}
        self._permutations: dict[str, tuple[int, np.ndarray]] = {}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step of `epoch` (from 0), beginning with step `start` of it; none is empty."""
        nothing = np.zeros(0, dtype=np.int64)
        for step in range(start, self.steps_per_epoch):
            examples = self._examples(epoch, step)
            micro_batches = [
                {
                    task: examples.get(task, nothing)[micro * batch_size : (micro + 1) * batch_size]
                    for task, batch_size in self._batch_sizes.items()
                }
                for micro in range(self._accumulate)
            ]
            yield [batch for batch in micro_batches if any(len(indices) for indices in batch.values())]

    @abstractmethod
    def _examples(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        """Task -> int64 indices, all that the step reads of it; tasks that it does not hold may be missing."""

    def _steps_through(self, task: str) -> int:
        """Steps that read the task's set once."""
        return -(-self._sizes[task] // self._step_size(task))

    def _once(self, task: str, epoch: int, step: int) -> np.ndarray:
        """The task's `step`-th piece of an order of `epoch`'s own, in which each example is once; its last is short."""
        size = self._step_size(task)
        return self._permutation(task, epoch)[step * size : (step + 1) * size]

    def _going_on(self, task: str, step: int) -> np.ndarray:
        """The task's `step`-th piece since the run's beginning: when its set is through, it begins anew, reordered."""
        position = step * self._step_size(task)
        stop, size, pieces = position + self._step_size(task), self._sizes[task], []
        while position < stop:
            cycle, offset = divmod(position, size)
            count = min(size - offset, stop - position)
            pieces.append(self._permutation(task, cycle)[offset : offset + count])
            position += count
        return np.concatenate(pieces)

    def _step_size(self, task: str) -> int:
        return self._batch_sizes[task] * self._accumulate

    def _permutation(self, task: str, cycle: int) -> np.ndarray:
        kept = self._permutations.get(task)
        if kept is None or kept[0] != cycle:
            order = np.random.default_rng((self._seed, self._numbers[task], cycle)).permutation(self._sizes[task])
            kept = self._permutations[task] = (cycle, order)
        return kept[1]


class JointSampler(Sampler):
    """A batch of every task in each step.

    The set that takes the most steps, or with `until` "smallest" the fewest, is read once an epoch. Until the largest
    set is through, the others go on where they left off, beginning anew in a fresh order; at the end of the smallest
    they are cut, and every epoch has fresh orders.

    Args:
        until: "largest" or "smallest", whose end ends an epoch.
        steps_per_epoch: if not 0, an epoch has as many steps whatever the sets' sizes, and every set goes on where it
            left off.
        sizes, batch_size, accumulate, seed: see `Sampler`.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int | Mapping[str, int],
        accumulate: int,
        seed: int,
        until: str = "largest",
        steps_per_epoch: int = 0,
    ) -> None:
        super().__init__(sizes, batch_size=batch_size, accumulate=accumulate, seed=seed)
        # Counted in batches, not in steps: of two sets that end within the same step, only the one with more batches is
        # read once; the other is filled up with examples of its next pass.
        batches = {task: size / self._batch_sizes[task] for task, size in sizes.items()}
        if until not in _ENDS:
            raise InputError(f"until {until}: {did_you_mean(until, _ENDS)}")
        end = _ENDS[until](batches.values())
        self.steps_per_epoch = steps_per_epoch or next(
            self._steps_through(task) for task, count in batches.items() if count == end
        )
        self._read_once = {
            task for task, count in batches.items() if not steps_per_epoch and (until == "smallest" or count == end)
        }

    def task_examples(self, task: str, epoch: int, step: int) -> np.ndarray:
        """What a step reads of one task, int64 [up to batch size x accumulate]."""
        if task in self._read_once:
            return self._once(task, epoch, step)
        return self._going_on(task, epoch * self.steps_per_epoch + step)

    def _examples(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        return {task: self.task_examples(task, epoch, step) for task in self._sizes}
