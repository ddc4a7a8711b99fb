"""What tells somebody how a run gets on: one class of named methods, of which those here keep silent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concord.bert.errors import one_line

LONGEST_WARNING = 2000  # characters; it may name twenty bad rows


@dataclass(frozen=True)
class Plan:
    """What is ahead of a run.

    Attributes:
        steps_per_epoch: of a whole epoch; total_steps: of the whole run; done: those that it has behind it already.
        evaluations: that are still to come; dev_examples: of each; test_examples: that are answered at the end.
    """

    steps_per_epoch: int
    total_steps: int
    done: int
    evaluations: int
    dev_examples: int
    test_examples: int


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
        self.say(f"warning: {one_line(text, LONGEST_WARNING)}")

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """Within this context a model reads `total` examples of what it names, and `read` is told of each batch."""
        yield

    def read(self, examples: int) -> None:
        """A model has read so many examples more."""

    def open_run(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        """A run has its folder now, with these settings, and `step` steps behind it where it goes on."""

    def begin_training(self, plan: Plan) -> None:
        """The steps of a run begin or go on."""

    def begin_epoch(self, epoch: int, done: int) -> None:
        """The steps of `epoch` (from 0) begin, `done` of which the run has behind it already."""

    def advance(self) -> None:
        """One step is done."""

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """A step is logged: its entry in metrics.jsonl, with the conflicts so far, and examples a second."""

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]], step: int) -> None:
        """The model is evaluated after `step` steps: task -> name of a metric -> its value on the dev set, None where
        it is undefined."""

    def end_epoch(self) -> None:
        """The steps that `begin_epoch` began are over, or are broken off."""

    def finish(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """A run is done, with what its summary.json tells."""

    def close(self) -> None:
        """A run that has its folder ends, done or stopped: nothing more will be told of it."""


class ForwardingReporter(Reporter):
    """Passes on whatever it is told; a subclass does more.

    Args:
        reporter: that it passes on to.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    @property
    def unread(self) -> bool:
        """Whether nobody reads any more what it passes on."""
        return self._reporter.unread

    def hurry(self) -> None:
        """Wait for no reader."""
        self._reporter.hurry()

    def say(self, text: str) -> None:
        """Pass on a line."""
        self._reporter.say(text)

    def warn(self, text: str) -> None:
        """Pass on a warning."""
        self._reporter.warn(text)

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """Pass on that a reading begins."""
        with self._reporter.reading(what, total):
            yield

    def read(self, examples: int) -> None:
        """Pass on how far the reading is."""
        self._reporter.read(examples)

    def open_run(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        """Pass on that a run has its folder."""
        self._reporter.open_run(directory, settings, step)

    def begin_training(self, plan: Plan) -> None:
        """Pass on what is ahead."""
        self._reporter.begin_training(plan)

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Pass on that an epoch begins."""
        self._reporter.begin_epoch(epoch, done)

    def advance(self) -> None:
        """Pass on that a step is done."""
        self._reporter.advance()

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """Pass on a logged step."""
        self._reporter.show_step(entry, speed)

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]], step: int) -> None:
        """Pass on an evaluation."""
        self._reporter.show_scores(dev, step)

    def end_epoch(self) -> None:
        """Pass on that an epoch is over."""
        self._reporter.end_epoch()

    def finish(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """Pass on the end of a run that is done."""
        self._reporter.finish(directory, summary)

    def close(self) -> None:
        """Pass on that nothing more will be told."""
        self._reporter.close()


SILENT = Reporter()
