"""Stops that are asked for by a signal, and that a run makes between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from concord.train.reporter import SILENT, Reporter

# Each asks for a stop: Ctrl-C, the end of a service, the end of a terminal, and a batch system's warning.
_ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_INSISTING = (signal.SIGINT, signal.SIGTERM)  # a second one of these ends a run at once; terminals send SIGHUP twice


class StopRequest:
    """Whether the user, or the system, has asked the run to stop, or nobody reads any more what it says.

    Args:
        reporter: that tells of the run.
    """

    def __init__(self, reporter: Reporter = SILENT) -> None:
        self._asked, self._reporter = False, reporter

    @property
    def made(self) -> bool:
        """Whether the run is to stop."""
        return self._asked or self._reporter.unread

    def make(self) -> None:
        """Ask the run to stop, and its reporter to wait for nobody."""
        self._asked = True
        self._reporter.hurry()


@contextmanager
def stop_on_signal(request: StopRequest) -> Iterator[None]:
    """Within this context Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 only make the request, so that a step is never torn
    apart; a signal that the process ignores, as SIGHUP under nohup, stays ignored.

    A second Ctrl-C or SIGTERM raises KeyboardInterrupt at once. In another thread than the main one, which alone may
    handle signals, they stay as they are.
    """
    insisted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal insisted
        if insisted and number in _INSISTING:
            raise KeyboardInterrupt
        insisted = insisted or number in _INSISTING
        request.make()

    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ASKING:
            if number in _INSISTING or signal.getsignal(number) is not signal.SIG_IGN:
                earlier[number] = signal.signal(number, handle)
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
