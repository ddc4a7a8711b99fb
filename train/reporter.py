"""What tells somebody how a run gets on: one class of named methods, of which those here keep silent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from concord.bert.errors import one_line

_LONGEST_WARNING = 2000  # characters; it may name twenty bad rows


class Reporter:
    """Is told what happens. This one keeps silent, as a library should; `ConsoleReporter` prints, as the commands do.

    A subclass overrides the methods that it cares for.
    """

    @property
    def unread(self) -> bool:
        """Whether nobody reads any more what it is told, so that a run may as well stop."""
        return False

    def hurry(self) -> None:
        """A stop is asked for: from now on wait for nobody who reads. It may be called by a handler of signals."""

    def say(self, text: str) -> None:
        """Something is worth a line."""

    def warn(self, text: str) -> None:
        """Something is worth a warning."""
        self.say(f"warning: {one_line(text, _LONGEST_WARNING)}")

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """Within this context a model reads `total` examples of what it names, and `read` is told of each batch."""
        yield

    def read(self, examples: int) -> None:
        """A model has read so many examples more."""

    def begin_training(self, *, steps_per_epoch: int, total_steps: int) -> None:
        """A run begins or goes on, which has so many steps in all."""

    def begin_epoch(self, epoch: int, done: int) -> None:
        """The steps of `epoch` (from 0) begin, `done` of which the run has behind it already."""

    def advance(self) -> None:
        """One step is done."""

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """A step is logged: its entry in metrics.jsonl, with the conflicts so far, and examples a second."""

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]]) -> None:
        """The model is evaluated: task -> name of a metric -> its value on the dev set, None where it is undefined."""

    def end_epoch(self) -> None:
        """The steps that `begin_epoch` began are over, or are broken off."""


SILENT = Reporter()
