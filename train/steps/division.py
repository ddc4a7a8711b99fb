"""How a step's batches are divided into micro-batches: not at all, by their size, or into the fewest that fit."""

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from concord.bert.errors import InputError, exhausted_memory
from concord.kernels.dropout import STREAMS
from concord.train.data.sampler import MicroBatch
from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT, Reporter

Value = TypeVar("Value")


class DoesNotFit(RuntimeError):
    """The micro-batches of a step were too large for the memory of some process."""


class Division:
    """Divides each batch of a step into micro-batches that have as many examples of a task, or one more.

    The fewest that fit are found by trials. A step is one where it may need more memory than all before it: its
    gradients are computed, the ranks tell each other whether theirs could be, and only then are they sent and used. In
    all other steps they are sent while the backward goes on.

    Args:
        micro_batch: most examples of a task in a micro-batch, for each of the processes, which divide it by its tokens;
            0 for whole batches.
        fitted: whether the number of micro-batches is doubled until they fit.
        ranks: of the run; None for a process that is alone.
        reporter: is told what was found.

    Attributes:
        fitted: as the argument.
        number: of the micro-batches of a batch, where it is found. A resumed run sets it to what it was.
        trial: whether the step under way is one.
    """

    def __init__(
        self, micro_batch: int = 0, fitted: bool = False, ranks: Ranks | None = None, reporter: Reporter = SILENT
    ) -> None:
        self._micro_batch, self.fitted, self._ranks, self._reporter = micro_batch, fitted, ranks, reporter
        self._size = ranks.size if ranks else 1
        self.number, self.trial = 1, False
        self._tokens = self._fitting = self._told = 0

    def divide(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches of a step; InputError where they are more than a step may have."""
        if not self._micro_batch and not self.fitted:
            return list(batches)
        found = [part for batch in batches for part in _divide(batch, self._number_of(batch))]
        most = STREAMS // self._size
        if len(found) > most:
            flag = f"--micro-batch {self._micro_batch}" if self._micro_batch else "--accumulate auto"
            raise InputError(f"{flag}: {len(found)} micro-batches a step, expected {most} at most")
        return found

    def begin(self, tokens: int) -> None:
        """A step begins whose largest micro-batch has so many tokens on the rank that has the most; 0 for none."""
        # A process that is alone waits for no others, and may take every step for a trial.
        self.trial = self.fitted and tokens > 0 and (self._ranks is None or tokens > self._fitting)
        self._tokens = tokens

    def attempt(self, make: Callable[[], Value]) -> Value:
        """What `make` gives; in a trial DoesNotFit, on all ranks, where it runs out of memory on any of them."""
        if not self.trial:
            return make()
        made, reason = None, ""
        try:
            made = make()
        except (RuntimeError, MemoryError) as error:
            if not exhausted_memory(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        # Only out of that clause is nothing kept alive any more of what has been computed.
        failed = np.array([int(bool(reason))])
        if self._ranks is not None:
            failed = self._ranks.add_up_on_host(failed)
        if failed[0]:
            raise DoesNotFit(reason or "on another process")
        self._fitting = max(self._fitting, self._tokens)
        self._tell()
        return made

    def divide_further(self, batches: Sequence[MicroBatch], reason: str) -> None:
        """Have twice as many micro-batches from now on; InputError where they have one example of a task already."""
        if self.number >= max(len(own) for batch in batches for own in batch.values()):
            raise InputError(
                f"--accumulate auto: one example of each task at a time does not fit into memory either ({reason}); "
                "expected a smaller --max-length, or a smaller model"
            )
        self.number *= 2
        gc.collect()
        torch.cuda.empty_cache()

    def _number_of(self, batch: MicroBatch) -> int:
        most = max(map(len, batch.values()))
        return -(-most // (self._micro_batch * self._size)) if self._micro_batch else min(self.number, most)

    def _tell(self) -> None:
        """Say how many micro-batches there are, once they fit, and again where they become more."""
        if self.number == self._told:
            return
        self._told = self.number
        text = "computed as a whole, which fits into memory"
        if self.number > 1:
            text = f"computed in {self.number} micro-batches: half as many do not fit into memory"
        self._reporter.say(f"batch      {text}")


def _divide(batch: MicroBatch, number: int) -> list[MicroBatch]:
    pieces = {task: np.array_split(own, number) for task, own in batch.items()}
    parts = [{task: own[index] for task, own in pieces.items()} for index in range(number)]
    return [part for part in parts if any(map(len, part.values()))]
