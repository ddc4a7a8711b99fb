"""Families by name: a table of small entries that are imported when they are used, or a function of the user's own.

An entry says its name, a phrase for the help, and where what it stands for lies; this file imports nothing but Python.
"""

import difflib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from concord.bert.errors import InputError, did_you_mean

_LONGEST_REASON = 200  # characters of an error's message, where a user's own module fails
_ROOMS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NOT_THE_USERS = (
    "<frozen ",
    *(os.path.join(folder, "") for folder in (sys.prefix, sys.base_prefix)),
    *(os.path.join(_ROOMS, room, "") for room in ("kernels", "bert", "train")),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a table.

    name: as it is typed.
    help: a phrase.
    target: MODULE:NAME, where the function or class lies.
    """

    name: str
    help: str
    target: str


E = TypeVar("E", bound=Entry)


class Table(Generic[E]):
    """The members of one family, in the order in which help lists them.

    Args:
        family: what a member is called in messages.
        kind: the entries' class, whose defaults are those of a function of the user's own.
        entries: the members.
    """

    def __init__(self, family: str, kind: type[E], *entries: E) -> None:
        self.family, self._kind = family, kind
        self._entries = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(self._entries)

    def entry(self, name: str) -> E:
        """The member called `name`, or one that stands for MODULE:FUNCTION; InputError for any other name."""
        if is_own(name):
            return self._kind(name=name, help="of your own", target=name)
        if name not in self._entries:
            raise InputError(f"{self.family} {name}: {did_you_mean(name, self.names)}")
        return self._entries[name]

    def resolve(self, name: str) -> Any:
        """What the member called `name` stands for; ImportError where a package that it needs is not installed.

        InputError for an unknown name, and where a function of the user's own is not to be had.
        """
        entry = self.entry(name)
        if is_own(name):
            return find_own(name)
        module, _, attribute = entry.target.partition(":")
        return getattr(import_module(module), attribute)


def is_own(name: str) -> bool:
    """Whether a name is MODULE:FUNCTION, both as Python spells them."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find_own(name: str) -> Any:
    """The function, or the class, that MODULE:FUNCTION names; InputError in one line where it cannot be had.

    The module is looked for where `python -m` would: in the current folder, in PYTHONPATH, among what is installed.
    """
    module, _, attribute = name.partition(":")
    if not {"", os.getcwd()} & set(sys.path):  # an installed command does not have it
        sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module)
    except (Exception, SystemExit) as error:  # a module may do anything as it is imported
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            reason = "there is no such module in the current folder, in PYTHONPATH, or installed"
        else:
            reason = f"importing its module raised {reason_of(error)}"
        raise InputError(f"{name}: {reason}") from error
    if not hasattr(found, attribute):
        near = difflib.get_close_matches(attribute, dir(found), n=1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name}: {getattr(found, '__file__', module)} has no {attribute}{suggestion}")
    function = getattr(found, attribute)
    if not callable(function):
        raise InputError(f"{name}: it is a {type(function).__name__}, expected a function")
    return function


def reason_of(error: BaseException) -> str:
    """What another's code raised, on one line, with the file and line of the user's own that it came from."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_THE_USERS):
            return f"{text} ({os.path.basename(frame.filename)}:{frame.lineno})"
    return text
