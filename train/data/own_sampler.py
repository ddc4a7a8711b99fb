"""A batching of the user's own: every step that it gives is checked, and a fault ends the run in one line."""

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from concord.bert.errors import InputError, shown
from concord.train.data.sampler import MicroBatch, Sampler
from concord.train.settings.own import calling

_NOTHING = np.zeros(0, dtype=np.int64)


class OwnSampler(Sampler):
    """The sampler of a batching of the user's own, whose steps it gives on with a check of each.

    It is tried as it is made: on the first and the last step of the first epoch.

    Args:
        name: MODULE:FUNCTION, as the settings give it.
        sampler: what that gave.
        sizes: task -> number of training examples.

    Raises InputError where `sampler` is none, has no whole number of at least 1 as its `steps_per_epoch`, or one of the
    tried steps is wrong, see `epoch`.
    """

    def __init__(self, name: str, sampler: Any, sizes: Mapping[str, int]) -> None:
        if not isinstance(sampler, Sampler):
            raise InputError(
                f"{name}: it gave a {type(sampler).__name__}, expected a concord.train.data.sampler.Sampler whose "
                "steps_per_epoch is at least 1"
            )
        with calling(name):
            steps = getattr(sampler, "steps_per_epoch", None)
        if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
            raise InputError(f"{name}: its steps_per_epoch is {shown(steps)}, expected a whole number of at least 1")
        self.steps_per_epoch = int(steps)
        self._name, self._sampler, self._sizes = name, sampler, dict(sizes)
        # The given sampler's own `epoch` takes no notice of a task that is unknown, so what it reads is checked too.
        self._given, sampler._examples = sampler._examples, self._examples
        for step in {0, self.steps_per_epoch - 1}:
            next(self.epoch(0, step))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step of `epoch` (from 0), beginning with step `start` of it; none is empty.

        Raises InputError where the given sampler fails, has no more steps, or gives a step without any examples, with a
        task that is unknown, with more examples of a task than its micro-batches hold, or with anything else than an
        array of whole numbers, the places of examples in the set.
        """
        with calling(self._name):
            steps = iter(self._sampler.epoch(epoch, start))
        for step in range(start, self.steps_per_epoch):
            with calling(self._name):
                given = next(steps, None)
                if given is None:
                    raise self._error(epoch, step, f"nothing, expected {self.steps_per_epoch} steps an epoch")
                batches = [self._checked(batch, epoch, step) for batch in given]
            batches = [batch for batch in batches if any(map(len, batch.values()))]
            if not batches:
                raise self._error(epoch, step, "no examples of any task, expected at least one")
            yield batches

    def _examples(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        examples = self._checked(self._given(epoch, step), epoch, step)
        # `Sampler.epoch` divides them into micro-batches, and would leave out what those do not hold.
        for task, indices in examples.items():
            most = self._sampler._step_size(task)
            if len(indices) > most:
                raise self._error(epoch, step, f"{len(indices)} examples of {task}, expected at most {most} a step")
        return examples

    def _checked(self, batch: Any, epoch: int, step: int) -> MicroBatch:
        """The int64 indices of every task; InputError for what is none, see `epoch`."""
        if not isinstance(batch, Mapping):
            raise self._error(epoch, step, f"a {type(batch).__name__}, expected a dict of arrays by task")
        for task, indices in batch.items():
            if task not in self._sizes:
                raise self._error(epoch, step, f"examples of {shown(task)}, expected tasks of {', '.join(self._sizes)}")
            is_array, size = isinstance(indices, np.ndarray), self._sizes[task]
            if not (is_array and indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer)):
                found = f"{indices.dtype} {list(indices.shape)}" if is_array else f"a {type(indices).__name__}"
                raise self._error(epoch, step, f"{found} for {task}, expected an array of whole numbers [examples]")
            beyond = indices[(indices < 0) | (indices >= size)]
            if len(beyond):
                raise self._error(epoch, step, f"example {beyond[0]} of {task}, expected numbers from 0 to {size - 1}")
        return {task: np.asarray(batch.get(task, _NOTHING), dtype=np.int64) for task in self._sizes}

    def _error(self, epoch: int, step: int, found: str) -> InputError:
        return InputError(f"{self._name}: at step {step + 1} of epoch {epoch + 1} it gave {found}")
