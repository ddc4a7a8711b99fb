"""What the threads of a process share: what is chosen for all of them, or by one for itself, and the process."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Choice(Generic[Value]):
    """What is chosen for the whole process, or, within `own_choices`, by a thread for itself.

    A thread's own choice does not reach the threads in which autograd computes backwards on a GPU, nor, as long as
    nothing else calls for it, what torch.compile has made of a function: it is for forward passes without a gradient,
    and for CPUs.

    Args:
        value: what counts until something is chosen.
    """

    def __init__(self, value: Value) -> None:
        self._of_process = value
        _all_choices.append(self)

    @property
    def value(self) -> Value:
        """What counts in this thread."""
        own = _of_thread.own
        return self._of_process if own is None else own.get(self, self._of_process)

    def choose(self, value: Value) -> None:
        """Choose for the whole process, or within `own_choices` for this thread."""
        if _of_thread.own is None:
            self._of_process = value
        else:
            _of_thread.own[self] = value


class _OfThread(threading.local):
    own: "dict[Choice[Any], Any] | None" = None


_all_choices: "list[Choice[Any]]" = []
_of_thread = _OfThread()


@contextmanager
def own_choices(choices: "Mapping[Choice[Any], Any] | None" = None) -> Iterator[None]:
    """Within this context what this thread chooses is its own: no other thread computes otherwise for it.

    choices: what counts from the beginning, as `current_choices` gives it; None for what counts here already.
    """
    before = _of_thread.own
    _of_thread.own = dict(current_choices() if choices is None else choices)
    try:
        yield
    finally:
        _of_thread.own = before


def current_choices() -> "Mapping[Choice[Any], Any]":
    """All that counts in this thread now, for `own_choices`."""
    return {choice: choice.value for choice in _all_choices}


def runs_alone() -> bool:
    """Whether Python runs no other thread in this process: what is the process's can be changed for a while, and nobody
    meets it changed."""
    return threading.active_count() == 1
