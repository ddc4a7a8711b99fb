"""A sanitizer for interpreted kernels: programs in another order, and every load and store held against the others.

On a GPU the programs of a launch run at once and in any order, and the threads of a program meet at barriers alone. The
interpreter runs one program after the other, and one operation after the other, so that what depends on luck on a GPU
always goes well in it. Here two programs conflict where one writes what the other reads or writes, whichever of them
ran first; it is no conflict where both write the same bytes, as flags are set. Which thread of a program holds which
element is the compiler's choice, and may differ from a store to a load: a program conflicts with itself where it loads
what it has stored, or stores another value to it, with no barrier between.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle, interpreter_builder
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.interpreter.findings import Finding, Kind, Place, Program, current_lines
from tests.interpreter.memory import Memory, TakenAddresses, View, addresses_of
from tests.interpreter.order import ProgramOrder
from tests.interpreter.shadow import Shadow

_BUILDER = InterpreterBuilder  # whose methods the ones below stand in for
_launch_kernel, _to_handle = GridExecutor.__call__, interpreter._implicit_cvt
_data_ptr = torch.Tensor.data_ptr


def _same_bytes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where two arrays of one dtype hold the same bits."""
    bits = np.dtype(f"u{left.dtype.itemsize}")
    return np.ascontiguousarray(left).view(bits) == np.ascontiguousarray(right).view(bits)


class Sanitizer:
    """Watches every launch within its block. A second one inside of it takes over for as long as its own block lasts.

    order, seed: see `ProgramOrder`.
    """

    def __init__(self, order: str = "shuffle", seed: int = 0) -> None:
        self.order = ProgramOrder(order, seed)
        self._findings: dict[tuple[Kind, Place, str], Finding] = {}
        self._taken = TakenAddresses()
        self._undo: list[Callable[[], None]] = []

    def take(self) -> list[Finding]:
        """What was wrong since this was last asked: the first of each kind in each line and tensor."""
        found, self._findings = list(self._findings.values()), {}
        return found

    # ----- in place of the interpreter's own -----

    def __enter__(self) -> Self:
        def launch(executor: GridExecutor, *arguments: Any, **options: Any) -> None:
            self._launch(executor, arguments, options)

        def data_ptr(tensor: torch.Tensor) -> int:
            self._taken.note(tensor)
            return _data_ptr(tensor)

        self._replace(GridExecutor, "__call__", launch)
        self._replace(interpreter, "_implicit_cvt", self._to_handle)
        self._replace(torch.Tensor, "data_ptr", data_ptr)
        for name in ("set_grid_dim", "set_grid_idx", "create_masked_load", "create_masked_store", "create_barrier"):
            self._replace(interpreter_builder, name, getattr(self, f"_{name}"))
        for name in ("create_atomic_rmw", "create_atomic_cas"):
            self._replace(interpreter_builder, name, self._refuse_atomics)
        return self

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        if name in vars(owner):
            before = vars(owner)[name]
            self._undo.append(lambda: setattr(owner, name, before))
        else:
            self._undo.append(lambda: delattr(owner, name))
        setattr(owner, name, value)

    def __exit__(self, *error: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _launch(self, executor: GridExecutor, arguments: tuple, options: dict[str, Any]) -> None:
        kernel = executor.fn
        known = {name: value for name, value in options.items() if name in executor.arg_names}
        bound = inspect.getcallargs(kernel, *arguments, **known)
        self._kernel = f"{kernel.__module__}.{kernel.__name__}"
        self._names = iter(
            [n for name, value in bound.items() if name not in executor.constexprs for n in _tensor_names(name, value)]
        )
        self._memory = Memory(self._taken)
        self._shadows: dict[int, Shadow] = {}
        self._phase = 0
        _launch_kernel(executor, *arguments, **options)

    def _to_handle(self, argument: Any) -> Any:
        converted = _to_handle(argument)
        if hasattr(argument, "data_ptr"):
            tensor = interpreter._unwrap_tensor(argument)
            converted.handle.data = self._memory.give(tensor, next(self._names), converted.handle.data)
        return converted

    def _set_grid_dim(self, *grid: int) -> None:
        _BUILDER.set_grid_dim(interpreter_builder, *grid)
        self._grid = grid
        self._programs = self.order.programs(math.prod(grid))

    def _set_grid_idx(self, *index: int) -> None:
        """A program begins: not the one that the interpreter means, but the one that is at its place in the order."""
        number = int(self._programs[np.ravel_multi_index(index, self._grid)])
        _BUILDER.set_grid_idx(interpreter_builder, *self._index_of(number + 1))
        self._program = number + 1
        self._phase += 1

    def _create_barrier(self) -> None:
        self._phase += 1

    def _refuse_atomics(self, *arguments: Any) -> None:
        raise NotImplementedError("the sanitizer does not follow atomic operations, which no kernel here has")

    # ----- loads and stores -----

    def _create_masked_load(self, pointers: TensorHandle, mask: Any, other: Any, *options: Any) -> TensorHandle:
        size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        mask, reached = self._reach(pointers.data, mask, size, Kind.LOAD_OUTSIDE)
        for view, _, offsets in reached:
            self._note_load(view, offsets, size)
        pointers = TensorHandle(addresses_of(pointers.data), pointers.dtype)
        return _BUILDER.create_masked_load(interpreter_builder, pointers, mask, other, *options)

    def _create_masked_store(self, pointers: TensorHandle, value: TensorHandle, mask: Any, *options: Any) -> None:
        values = np.broadcast_to(value.data, pointers.data.shape).reshape(-1)
        mask, reached = self._reach(pointers.data, mask, values.itemsize, Kind.STORE_OUTSIDE)
        for view, places, offsets in reached:
            self._note_store(view, offsets, values[places])
        pointers = TensorHandle(addresses_of(pointers.data), pointers.dtype)
        _BUILDER.create_masked_store(interpreter_builder, pointers, value, mask, *options)

    def _reach(
        self, pointers: np.ndarray, mask: Any, size: int, outside: Kind
    ) -> tuple[TensorHandle, list[tuple[View, np.ndarray, np.ndarray]]]:
        """The mask without the elements that lie outside of the tensors given, which are reported as `outside`; and by
        tensor which elements remain, by their place, and at which offsets (bytes)."""
        allowed = np.broadcast_to(mask.data if isinstance(mask, TensorHandle) else mask, pointers.shape)
        active = np.flatnonzero(allowed)
        reached = []
        for view, places, offsets in self._memory.find(pointers.reshape(-1)[active], size) if len(active) else ():
            inside = view.holds(offsets, size) if view else np.zeros(len(places), bool)
            if not inside.all():
                where = view.describe(int(offsets[~inside][0]), size) if view else f"address {int(offsets[0]):#x}"
                self._report(outside, where, view, None, np.count_nonzero(~inside))
                allowed = allowed.copy()
                allowed.reshape(-1)[active[places[~inside]]] = False
                places, offsets = places[inside], offsets[inside]
            if len(places):
                reached.append((view, active[places], offsets))
        return TensorHandle(allowed, tl.int1), reached

    def _shadow(self, view: View) -> Shadow:
        if view.storage not in self._shadows:
            self._shadows[view.storage] = Shadow(view.storage_size, view.item)
        return self._shadows[view.storage]

    def _note_load(self, view: View, offsets: np.ndarray, size: int) -> None:
        shadow, own = self._shadow(view), self._program
        cells = shadow.cells(offsets + (view.start - view.storage), size)
        if shadow.is_written:
            writer = shadow.writer[cells]
            self._check(Kind.READ_OF_WRITTEN, view, offsets, size, (writer != 0) & (writer != own), writer)
            unmet = (writer == own) & (shadow.phase[cells] == self._phase)
            self._check(Kind.LOAD_AFTER_STORE, view, offsets, size, unmet)
        shadow.first_reader[cells[shadow.first_reader[cells] == 0]] = own
        shadow.last_reader[cells] = own

    def _note_store(self, view: View, offsets: np.ndarray, values: np.ndarray) -> None:
        shadow, own, size = self._shadow(view), self._program, values.itemsize
        cells = shadow.cells(offsets + (view.start - view.storage), size)
        element = np.repeat(np.arange(len(offsets)), len(cells) // len(offsets))
        shadow.element[cells] = element
        last = shadow.element[cells]
        if (last != element).any():
            same = (offsets[last] == offsets[element]) & _same_bytes(values[last], values[element])
            self._check(Kind.TWO_VALUES, view, offsets, size, ~same)
        if shadow.is_written:
            writer = shadow.writer[cells]
            foreign = (writer != 0) & (writer != own)
            unmet = (writer == own) & (shadow.phase[cells] == self._phase)
            if (foreign | unmet).any():
                changes = ~_same_bytes(values, _present(view.start + offsets, values.dtype))[element]
                self._check(Kind.WRITE_OF_WRITTEN, view, offsets, size, foreign & changes, writer)
                self._check(Kind.STORE_AFTER_STORE, view, offsets, size, unmet & changes)
        first, latest = shadow.first_reader[cells], shadow.last_reader[cells]
        reader = np.where((first != 0) & (first != own), first, latest)
        self._check(Kind.WRITE_OF_READ, view, offsets, size, (reader != 0) & (reader != own), reader)
        shadow.writer[cells], shadow.phase[cells] = own, self._phase
        shadow.is_written = True

    # ----- findings -----

    def _check(
        self,
        kind: Kind,
        view: View,
        offsets: np.ndarray,
        size: int,
        at_fault: np.ndarray,
        others: np.ndarray | None = None,
    ) -> None:
        """Report where cells are `at_fault`, each element having as many; others: the programs that they clash with."""
        if not at_fault.any():
            return
        cells = np.flatnonzero(at_fault)
        elements = np.unique(cells // (len(at_fault) // len(offsets)))
        where = view.describe(int(offsets[elements[0]]), size)
        self._report(kind, where, view, None if others is None else int(others[cells[0]]), len(elements))

    def _report(self, kind: Kind, where: str, view: View | None, other: int | None, elements: int) -> None:
        place = Place(self._kernel, current_lines(Sanitizer._launch.__code__))
        key = (kind, place, view.name if view else "")
        if key not in self._findings:
            other_index = None if other is None else self._index_of(other)
            self._findings[key] = Finding(kind, place, self._index_of(self._program), other_index, where, elements)

    def _index_of(self, program: int) -> Program:
        return tuple(int(index) for index in np.unravel_index(program - 1, self._grid))


def _present(addresses: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What memory holds at `addresses` (int64 [n])."""
    everywhere = np.ones(len(addresses), bool)
    return interpreter._interpreter.load(
        addresses.astype(np.uint64), everywhere, np.zeros(len(addresses), dtype), dtype
    )


def _tensor_names(name: str, value: Any) -> list[str]:
    """The names of the tensors in an argument, in the order in which the interpreter meets them."""
    if isinstance(value, tuple):
        return [found for index, part in enumerate(value) for found in _tensor_names(f"{name}[{index}]", part)]
    return [name] if hasattr(value, "data_ptr") or isinstance(value, TensorDescriptor) else []
