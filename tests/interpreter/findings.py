"""What the sanitizer finds, and the line in which a test reports it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import CodeType

import triton

_ROOT = Path(__file__).parents[2]
# No lines of a kernel: the interpreter, and what watches it.
_MACHINERY = (str(Path(triton.__file__).parent), __file__, str(Path(__file__).with_name("sanitizer.py")))


class Kind(StrEnum):
    """What is wrong with an access; {other} is another program of the launch."""

    READ_OF_WRITTEN = "loads what {other} has written"
    WRITE_OF_WRITTEN = "stores another value to what {other} has written"
    WRITE_OF_READ = "stores to what {other} has read"
    LOAD_OUTSIDE = "loads from outside of the tensors given"
    STORE_OUTSIDE = "stores outside of the tensors given (refused)"
    TWO_VALUES = "stores two values to one address at once"
    LOAD_AFTER_STORE = "loads what it has stored itself, with no barrier between"
    STORE_AFTER_STORE = "stores another value to what it has stored itself, with no barrier between"


Program = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """Where in the source a kernel makes an access: the kernel, and the lines from the access outwards to it."""

    kernel: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The first access at fault in one place, of one kind, in one tensor."""

    kind: Kind
    place: Place
    program: Program
    other: Program | None
    where: str  # which bytes of which tensor
    elements: int  # at fault in this access

    def __str__(self) -> str:
        said = self.kind.format(other=f"program {self.other}")
        lines = ", called at ".join(self.place.lines)
        return f"{self.place.kernel}, {lines}: program {self.program} {said}: {self.where} ({self.elements} in all)"


def current_lines(launch: CodeType) -> tuple[str, ...]:
    """The source lines that lead to the access being made, innermost first, up to the frame that runs `launch`."""
    return tuple(_lines(launch))


def _lines(launch: CodeType) -> Iterator[str]:
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not launch:
        name = frame.f_code.co_filename
        if not name.startswith(_MACHINERY):
            path = Path(name)
            yield f"{path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path}:{frame.f_lineno}"
        frame = frame.f_back
