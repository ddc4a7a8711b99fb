"""The standard output of a command, which may lose its reader, or have one that no longer reads, or a full disk."""

import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

_PATIENCE = 1.0  # seconds for a reader to take a line once a stop is asked for


class _Unread(Exception):
    """Nobody takes what is being written."""


class Output:
    """The standard output, or the error output, whatever they are at the moment.

    Where its reader has gone (`| head`), or takes nothing once `hurry` was called, no more is written, and nothing is
    raised. Any other failure is an OSError that names the stream.

    Attributes:
        unread: whether nobody reads it any more.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.unread = False
        self._name = "stderr" if stderr else "stdout"
        self._hurried = self._writing = False

    def write(self, text: str) -> int:
        """Write a text; the number of its characters."""
        self._do(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what has been written."""
        self._do(lambda stream: stream.flush())

    def hurry(self) -> None:
        """From now on wait for no reader. A handler of signals may call it: it ends a write that waits for one."""
        self._hurried = True
        if self._writing and not self._takes(0.0):
            self._writing = False
            raise _Unread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def _stream(self) -> TextIO | None:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # what a live line of rich has put a proxy before

    def _do(self, action: Callable[[TextIO], Any]) -> None:
        stream = self._stream()
        if self.unread or stream is None:
            return
        try:
            self._act(stream, action)
        except (_Unread, BrokenPipeError):
            self.unread = True
            discard(stream)
        except OSError as error:
            discard(stream)
            raise OSError(error.errno, error.strerror, f"<{self._name}>") from error

    def _act(self, stream: TextIO, action: Callable[[TextIO], Any]) -> None:
        # Handlers of signals run in the main thread, and can end the writes of that one alone.
        of_main = threading.current_thread() is threading.main_thread()
        try:
            self._writing |= of_main
            if self._hurried and not self._takes(_PATIENCE):
                raise _Unread
            action(stream)
        finally:
            self._writing &= not of_main

    def _takes(self, seconds: float) -> bool:
        """Whether the stream takes a line within so many seconds."""
        try:
            return bool(select.select([], [self._stream().fileno()], [], seconds)[1])
        except (OSError, ValueError, AttributeError):  # it is no file of the system's, or the system cannot tell
            return True


def discard(stream: TextIO) -> None:
    """Have what is written to a standard stream from now on, and what it still holds, go nowhere, so that the end of
    the process neither waits for it nor fails by it."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
