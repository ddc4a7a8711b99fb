"""One launch: what each of its loads and stores means beside those that were made before.

Two programs conflict where one stores what the other loads, or another value than the other stores, whichever ran
first: on a GPU they run at once. Programs that store the same bytes, as flags are set, do not conflict. Which thread of
a program holds which element is the compiler's choice, and may differ from one operation to the next: a program is at
fault as well where it loads what it has stored, or stores another value there, with no barrier between.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor
from triton.runtime import interpreter

from tests.interpreter.findings import Finding, Findings, Kind, Program
from tests.interpreter.memory import Memory, TakenAddresses, View, addresses_of
from tests.interpreter.shadow import Shadow


class _Access(NamedTuple):
    """What a load or a store touches of one tensor: `size` bytes at each of `offsets` (int64 [n]) from its start."""

    view: View
    offsets: np.ndarray
    size: int


class Launch:
    """Follows a launch of `kernel` (its name). lines: where in the source it is, when asked during an access."""

    def __init__(
        self, kernel: str, taken: TakenAddresses, lines: Callable[[], tuple[str, ...]], findings: Findings
    ) -> None:
        self._kernel, self._lines, self._findings = kernel, lines, findings
        self._memory = Memory(taken)
        self._shadows: dict[int, Shadow] = {}
        self._phase = 0

    def give(self, tensor: Tensor, name: str, pointer: np.ndarray) -> np.ndarray:
        """A tensor among the arguments; returns its `pointer` with a mark of where it began, for the kernel."""
        return self._memory.give(tensor, name, pointer)

    def start(self, program: Program, grid: Program) -> None:
        """A program of `grid` begins."""
        self._grid, self._program = grid, int(np.ravel_multi_index(program, grid)) + 1
        self.meet()

    def meet(self) -> None:
        """The threads of the program meet at a barrier."""
        self._phase += 1

    def load(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A load of `size` bytes at each of `pointers` where `mask` is set.

        Returns the addresses without marks, and the mask without what lies outside of the tensors given.
        """
        inside, reached = self._reach(pointers, mask, size, Kind.LOAD_OUTSIDE)
        for access, _ in reached:
            self._note_load(access)
        return addresses_of(pointers), inside

    def store(self, pointers: np.ndarray, mask: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A store of `values` at `pointers` where `mask` is set; returns the same."""
        inside, reached = self._reach(pointers, mask, values.itemsize, Kind.STORE_OUTSIDE)
        for access, places in reached:
            self._note_store(access, values.reshape(-1)[places])
        return addresses_of(pointers), inside

    def _reach(
        self, pointers: np.ndarray, mask: np.ndarray, size: int, outside: Kind
    ) -> tuple[np.ndarray, list[tuple[_Access, np.ndarray]]]:
        """The mask that remains, and by tensor what is accessed and which of the pointers lead there."""
        active = np.flatnonzero(mask)
        reached = []
        for view, places, offsets in self._memory.find(pointers.reshape(-1)[active], size):
            inside = view.holds(offsets, size) if view else np.zeros(len(places), bool)
            if not inside.all():
                where = (
                    view.describe(int(offsets[~inside][0]), size)
                    if view
                    else f"address {offsets[0]:#x}, in no tensor that a table may name"
                )
                self._report(outside, view, where, np.count_nonzero(~inside))
                mask = np.array(mask)
                mask.reshape(-1)[active[places[~inside]]] = False
                places, offsets = places[inside], offsets[inside]
            if len(places):
                reached.append((_Access(view, offsets, size), active[places]))
        return mask, reached

    def _cells(self, access: _Access) -> tuple[Shadow, np.ndarray]:
        view = access.view
        if view.storage not in self._shadows:
            self._shadows[view.storage] = Shadow(view.storage_size, view.item)
        shadow = self._shadows[view.storage]
        return shadow, shadow.cells(access.offsets + (view.start - view.storage), access.size)

    def _note_load(self, access: _Access) -> None:
        shadow, cells = self._cells(access)
        own = self._program
        if shadow.is_written:
            writer = shadow.writer[cells]
            self._check(Kind.READ_OF_WRITTEN, access, (writer != 0) & (writer != own), writer)
            self._check(Kind.LOAD_AFTER_STORE, access, (writer == own) & (shadow.phase[cells] == self._phase))
        shadow.reader[cells[shadow.reader[cells] == 0]] = own

    def _note_store(self, access: _Access, values: np.ndarray) -> None:
        shadow, cells = self._cells(access)
        own = self._program
        element = np.repeat(np.arange(len(values)), len(cells) // len(values))
        shadow.element[cells] = element
        last = shadow.element[cells]
        if (last != element).any():
            self._check(Kind.TWO_VALUES, access, _differs(values[last], values[element]))
        if shadow.is_written:
            writer = shadow.writer[cells]
            other = (writer != 0) & (writer != own)
            before = (writer == own) & (shadow.phase[cells] == self._phase)
            if (other | before).any():
                changes = _differs(values, _present(access.view.start + access.offsets, values.dtype))[element]
                self._check(Kind.WRITE_OF_WRITTEN, access, other & changes, writer)
                self._check(Kind.STORE_AFTER_STORE, access, before & changes)
        reader = shadow.reader[cells]
        self._check(Kind.WRITE_OF_READ, access, (reader != 0) & (reader != own), reader)
        shadow.writer[cells], shadow.phase[cells] = own, self._phase
        shadow.is_written = True

    def _check(self, kind: Kind, access: _Access, at_fault: np.ndarray, others: np.ndarray | None = None) -> None:
        """Report the cells that are `at_fault`, if any; others: by cell, the program that each conflicts with."""
        cells = np.flatnonzero(at_fault)
        if len(cells):
            elements = np.unique(cells // (len(at_fault) // len(access.offsets)))
            where = access.view.describe(int(access.offsets[elements[0]]), access.size)
            other = None if others is None else self._index(int(others[cells[0]]))
            self._report(kind, access.view, where, len(elements), other)

    def _report(self, kind: Kind, view: View | None, where: str, elements: int, other: Program | None = None) -> None:
        program = self._index(self._program)
        finding = Finding(kind, self._kernel, self._lines(), program, where, elements, other)
        self._findings.add(finding, view.name if view else "")

    def _index(self, program: int) -> Program:
        return tuple(int(index) for index in np.unravel_index(program - 1, self._grid))


def _differs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where two arrays of one dtype hold different bits."""
    bits = np.dtype(f"u{left.dtype.itemsize}")
    return left.view(bits) != right.view(bits)


def _present(addresses: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What memory holds at `addresses` (int64 [n])."""
    everywhere, nothing = np.ones(len(addresses), bool), np.zeros(len(addresses), dtype)
    return interpreter._interpreter.load(addresses.astype(np.uint64), everywhere, nothing, dtype)
