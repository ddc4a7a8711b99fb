"""What a user can mend: the one exception for bad input, whose one line says how, and memory that did not suffice."""

import difflib
from collections.abc import Iterable
from typing import Literal


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


def exhausted_memory(error: BaseException) -> Literal["", "memory", "GPU memory"]:
    """Which memory was too small for what raised `error`; empty where that is not the reason."""
    if isinstance(error, MemoryError):
        return "memory"
    if not isinstance(error, RuntimeError):
        return ""
    import torch  # not with this module: a flag that is refused need not wait for it

    if isinstance(error, torch.OutOfMemoryError):
        return "GPU memory"
    return "memory" if "DefaultCPUAllocator" in str(error) else ""  # torch raises a plain RuntimeError there
