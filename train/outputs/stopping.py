"""Stops that are asked for by a signal, and that a run makes between two steps."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from concord.train.reporter import Reporter


class StopRequest:
    """Whether the user, or the system, has asked the run to stop."""

    def __init__(self) -> None:
        self.made = False


@contextmanager
def stop_on_signal(request: StopRequest) -> Iterator[None]:
    """Within this context Ctrl-C and SIGTERM only make the request, so that a step is never torn apart.

    A second one raises KeyboardInterrupt at once.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if request.made:
            raise KeyboardInterrupt
        request.made = True

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class ReadingStopped(Exception):
    """A stop was asked for while a model was reading what can be read again: nothing is lost by it."""


class StoppableReporter(Reporter):
    """Passes on what it is told, but ends a reading with `ReadingStopped` once a stop is asked for.

    It is for a trainer, whose frozen encoder may read for minutes on a CPU before the first step; evaluations, which
    the saved state must not miss, have the plain reporter.
    """

    def __init__(self, reporter: Reporter, stop: StopRequest) -> None:
        self._reporter, self._stop = reporter, stop

    def say(self, text: str) -> None:
        """Pass on a line."""
        self._reporter.say(text)

    def warn(self, text: str) -> None:
        """Pass on a warning."""
        self._reporter.warn(text)

    def reading(self, what: str, total: int) -> AbstractContextManager[None]:
        """Pass on that a reading begins."""
        return self._reporter.reading(what, total)

    def read(self, examples: int) -> None:
        """Pass on how far the reading is; ReadingStopped where it is not to go on."""
        self._reporter.read(examples)
        if self._stop.made:
            raise ReadingStopped
