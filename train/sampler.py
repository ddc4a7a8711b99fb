"""Which examples each step reads: joint batches, one of every task in each step, until the largest set is through."""

from collections.abc import Iterator, Mapping

import numpy as np

MicroBatch = dict[str, np.ndarray]
"""Task -> int64 indices of its examples; a task may have none."""


class JointSampler:
    """Joint round-robin batches: an epoch ends with the largest set, smaller ones begin anew in a fresh order.

    What a step reads depends on the seed, the epoch and the step alone, so a resumed run needs no state of it.

    Args:
        sizes: task -> number of training examples, each at least 1.
        batch_size: examples a task and micro-batch.
        accumulate: micro-batches a step.
        seed: of the run.
    """

    def __init__(self, sizes: Mapping[str, int], *, batch_size: int, accumulate: int, seed: int) -> None:
        self._sizes = dict(sizes)
        self._batch_size, self._accumulate, self._seed = batch_size, accumulate, seed
        self._permutations: dict[tuple[int, int], np.ndarray] = {}
        self._largest = max(self._sizes.values())

    @property
    def steps_per_epoch(self) -> int:
        """Steps until the largest set is through; the last may hold fewer of its examples."""
        return -(-self._largest // (self._batch_size * self._accumulate))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step of `epoch` (from 0), beginning with step `start` of it."""
        for step in range(start, self.steps_per_epoch):
            micro_batches = [
                {
                    task: self._indices(index, size, epoch, (step * self._accumulate + micro) * self._batch_size)
                    for index, (task, size) in enumerate(self._sizes.items())
                }
                for micro in range(self._accumulate)
            ]
            yield [batch for batch in micro_batches if any(len(indices) for indices in batch.values())]

    def _indices(self, task: int, size: int, epoch: int, position: int) -> np.ndarray:
        """The examples at `position` and after, of the epoch's endless stream of permutations of the task's set."""
        stop = position + self._batch_size
        if size == self._largest:
            # Its first permutation is the epoch: what would begin a second is left to the next epoch.
            position, stop = min(position, size), min(stop, size)
        else:
            # A smaller set goes on where the epoch before left off.
            earlier = epoch * self.steps_per_epoch * self._accumulate * self._batch_size
            position, stop, epoch = position + earlier, stop + earlier, 0
        pieces = []
        while position < stop:
            cycle, offset = divmod(position, size)
            count = min(size - offset, stop - position)
            pieces.append(self._permutation(task, size, epoch + cycle)[offset : offset + count])
            position += count
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    def _permutation(self, task: int, size: int, cycle: int) -> np.ndarray:
        key = (task, cycle)
        if key not in self._permutations:
            self._permutations = {old: value for old, value in self._permutations.items() if old[0] != task}
            self._permutations[key] = np.random.default_rng((self._seed, task, cycle)).permutation(size)
        return self._permutations[key]
