"""Stops that are asked for by a signal, and that a run makes between two steps."""

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT, Reporter

# Each asks for a stop: Ctrl-C, the end of a service, the end of a terminal, and a batch system's warning.
_ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_STEPS_AHEAD = 8  # by which a rank's host may be ahead of its device, and so of another rank's host
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

    def look(self) -> None:
        """A step is done: where several processes have to stop together, they find out whether one of them is asked."""


class AgreedStop(StopRequest):
    """The request of one of several ranks, which is made on all of them after the same step.

    After each step every rank sends whether it is asked, from the host's memory, and looks at what all sent some steps
    before: that has arrived, and no device is waited for.

    Args:
        ranks: which agree.
        reporter: that tells of the run on this rank.
    """

    def __init__(self, ranks: Ranks, reporter: Reporter = SILENT) -> None:
        super().__init__(reporter)
        self._ranks, self._agreed = ranks, False
        self._sent: deque[tuple[Tensor, Any]] = deque()

    @property
    def made(self) -> bool:
        """Whether all ranks are to stop now."""
        return self._agreed

    def look(self) -> None:
        """See `StopRequest`."""
        asked = torch.tensor(int(self._asked or self._reporter.unread))
        self._sent.append((asked, self._ranks.ask_all(asked)))
        if len(self._sent) > _STEPS_AHEAD:
            found, work = self._sent.popleft()
            work.wait()
            self._agreed = self._agreed or bool(found.item())


@contextmanager
def stop_on_signal(request: StopRequest) -> Iterator[None]:
    """Within this context Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 only make the request, so that a step is never torn
    apart; a signal that the process ignores, as SIGHUP under nohup, stays ignored.

    A second Ctrl-C or SIGTERM raises KeyboardInterrupt at once, but not where ranks agree on a stop: what launched them
    passes each signal on, so that they may have it twice. In another thread than the main one, which alone may handle
    signals, they stay as they are.
    """
    insisted, alone = False, not isinstance(request, AgreedStop)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal insisted
        if insisted and alone and number in _INSISTING:
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
