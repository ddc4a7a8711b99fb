"""The one exception for bad input: what the user handed in is wrong, and one line says how to mend it."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input from the user.

    The message is one line: which file (and line), what was found, what was expected. Command lines print it
    without a traceback and exit with code 2.
    """


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """The known `choices` and, where one of them resembles `value`, a suggestion; to end an `InputError`'s line."""
    choices = sorted(choices)
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    suggestion = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected one of {', '.join(choices)}{suggestion}"
