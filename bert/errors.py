"""What a user can mend: the one exception for bad input, and memory that did not suffice; and how messages show what
came from outside: on one line, bounded, and visible."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

LONGEST = 500  # characters of a message
_LONGEST_VALUE = 80  # of one value within it
# Categories of Unicode that print nothing, move what is printed, or look like a plain space. Letters that print nothing
# are in none of them: fillers of Hangul, braille's blank, and selectors of variants.
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
_BLANK = {*"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0", *map(chr, range(0xFE00, 0xFE10))}


class InputError(Exception):
    """Bad input from the user.

    The message is one line: which file (and line), what was found, what was expected. Command lines print it
    without a traceback and exit with code 2. However long and strange the input that it quotes, it has `LONGEST`
    characters at most, and two texts that differ look different in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, longest: int = LONGEST) -> str:
    """A text as a message shows it: `visible`, with the middle left out where it has more than `longest` characters."""
    return _cut(visible(_cut(text, longest)), longest)


def visible(text: str) -> str:
    """A text with escapes, as Python writes them, for whatever nobody sees: control characters, line ends, spaces other
    than the plain one, signs of no width, lone surrogates, and accents that are a sign of their own beside a letter
    that there also is with its accent."""
    if text.isascii() and text.isprintable():
        return text
    pairs = zip(" " + text, text, strict=False)
    return "".join(_escaped(sign) if _unseen(before, sign) else sign for before, sign in pairs)


def shown(value: object, longest: int = _LONGEST_VALUE) -> str:
    """A value as Python writes it, in `longest` characters at most."""
    try:
        return _cut(repr(value), longest)
    except (ValueError, RecursionError):  # Python writes no whole number of thousands of digits
        return f"a {type(value).__name__} too long to be shown"


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """The known `choices` and, where one of them resembles `value`, a suggestion; to end an `InputError`'s line."""
    choices = sorted(choices)
    return f"expected one of {', '.join(choices)}{suggestion(value, choices)}"


def suggestion(value: str, choices: Sequence[str]) -> str:
    """Which of the `choices` may be meant by `value`, to end a line; "" where none resembles it. Among thousands of
    choices it takes a large part of a second."""
    near = difflib.get_close_matches(value[:LONGEST], choices, n=1, cutoff=0.5)
    return f"; did you mean {shown(near[0])}?" if near else ""


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


def _unseen(before: str, sign: str) -> bool:
    category = unicodedata.category(sign)
    if category in ("Mn", "Me") and len(unicodedata.normalize("NFC", before + sign)) == 1:
        return True
    return sign in _BLANK or (category in _UNSEEN and sign != " ")


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    left_out = f" [... of {len(text)} characters ...] "
    kept = max(0, longest - len(left_out))
    end = kept * 2 // 5  # what was expected, and how to mend it, stand at the end
    return f"{text[: kept - end]}{left_out}{text[len(text) - end :]}"
