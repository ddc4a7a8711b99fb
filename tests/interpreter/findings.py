"""What is wrong with an access to memory, and the line in which a test reports it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import CodeType

import triton

_ROOT = Path(__file__).parents[2]
_TRITON = Path(triton.__file__).parent

Program = tuple[int, ...]
"""A program's place in the grid: tl.program_id(0), (1) and (2)."""


class Kind(StrEnum):
    """What a program does that it must not; {other} is another program of the launch."""

    READ_OF_WRITTEN = "loads what {other} stores"
    WRITE_OF_WRITTEN = "stores another value where {other} stores"
    WRITE_OF_READ = "stores where {other} loads"
    LOAD_OUTSIDE = "loads from outside of the tensors given"
    STORE_OUTSIDE = "stores outside of the tensors given (refused)"
    TWO_VALUES = "stores two values to one address at once"
    LOAD_AFTER_STORE = "loads what it has stored, with no barrier between"
    STORE_AFTER_STORE = "stores another value where it has stored, with no barrier between"


@dataclass(frozen=True)
class Finding:
    """An access at fault. kernel: its full name; lines: of its source, from the access outwards; where: the first bytes
    at fault, of which tensor; elements: how many of the access are; other: the program that it conflicts with."""

    kind: Kind
    kernel: str
    lines: tuple[str, ...]
    program: Program
    where: str
    elements: int
    other: Program | None = None

    def __str__(self) -> str:
        what = self.kind.format(other=f"program {self.other}")
        more = f"; {self.elements} elements in all" if self.elements > 1 else ""
        return f"{', called at '.join(self.lines)}: program {self.program} of {self.kernel} {what}: {self.where}{more}"


class Findings:
    """The first finding of each kind in each line and tensor, until they are taken."""

    def __init__(self) -> None:
        self._found: dict[tuple[Kind, str, tuple[str, ...], str], Finding] = {}

    def add(self, finding: Finding, tensor: str) -> None:
        """tensor: the name of the one that was accessed."""
        self._found.setdefault((finding.kind, finding.kernel, finding.lines, tensor), finding)

    def take(self) -> list[Finding]:
        """What was added since this was last called."""
        found, self._found = list(self._found.values()), {}
        return found


def kernel_lines(launch: CodeType) -> tuple[str, ...]:
    """file:line of the access being made, of the call of the function that holds it, and so on, up to the kernel.

    launch: the code of the function that runs the kernel.
    """
    return tuple(_lines_below(launch))


def _lines_below(launch: CodeType) -> Iterator[str]:
    frame = sys._getframe()
    while frame is not None and frame.f_code is not launch:
        path = Path(frame.f_code.co_filename)
        # No lines of a kernel: the interpreter, and what watches it.
        own = path.parent == Path(__file__).parent and not path.name.startswith("test_")
        if not own and not path.is_relative_to(_TRITON):
            yield f"{path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path}:{frame.f_lineno}"
        frame = frame.f_back
