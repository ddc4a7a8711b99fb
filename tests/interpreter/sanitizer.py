"""A sanitizer of launches in Triton's interpreter: the programs in another order, every load and store followed.

The interpreter runs one program after the other, so that what depends on luck on a GPU always goes well in it.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle, interpreter_builder
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.interpreter.findings import Findings, Program, kernel_lines
from tests.interpreter.launch import Launch
from tests.interpreter.memory import TakenAddresses
from tests.interpreter.order import ProgramOrder

_run_kernel, _to_handle = GridExecutor.__call__, interpreter._implicit_cvt
_data_ptr = torch.Tensor.data_ptr


class Sanitizer:
    """Follows every launch within its block; a second one inside of it does so alone, as long as its own block lasts.

    order, seed: see `ProgramOrder`. No launch may hold atomic operations: NotImplementedError.
    """

    def __init__(self, order: str = "shuffle", seed: int = 0) -> None:
        self.order = ProgramOrder(order, seed)
        self.findings = Findings()
        self._taken = TakenAddresses()
        self._launch: Launch | None = None  # the one that is running
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        @functools.wraps(_data_ptr)
        def data_ptr(tensor: torch.Tensor) -> int:
            if self._launch is None:  # what the interpreter asks for itself stands in no table
                self._taken.note(tensor)
            return _data_ptr(tensor)

        def run_kernel(executor: GridExecutor, *arguments: Any, **options: Any) -> None:
            self._run(executor, arguments, options)

        self._replace(torch.Tensor, "data_ptr", data_ptr)
        self._replace(GridExecutor, "__call__", run_kernel)
        self._replace(interpreter, "_implicit_cvt", self._to_handle)
        self._replace(interpreter_builder, "set_grid_dim", self._set_grid)
        self._replace(interpreter_builder, "set_grid_idx", self._start_program)
        self._replace(interpreter_builder, "create_masked_load", self._load)
        self._replace(interpreter_builder, "create_masked_store", self._store)
        self._replace(interpreter_builder, "create_barrier", lambda: self._launch.meet())
        self._replace(interpreter_builder, "create_atomic_rmw", self._refuse_atomics)
        self._replace(interpreter_builder, "create_atomic_cas", self._refuse_atomics)
        return self

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        if name in vars(owner):
            self._undo.append(functools.partial(setattr, owner, name, vars(owner)[name]))
        else:
            self._undo.append(functools.partial(delattr, owner, name))
        setattr(owner, name, value)

    def __exit__(self, *error: object) -> None:
        while self._undo:
            self._undo.pop()()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this context launches are the interpreter's own again."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    # What stands in for the interpreter's own, in the order in which a launch comes to it.

    def _run(self, executor: GridExecutor, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        known = {name: value for name, value in options.items() if name in executor.arg_names}
        bound = inspect.getcallargs(executor.fn, *arguments, **known)
        self._names = iter(
            [found for name in bound if name not in executor.constexprs for found in _tensor_names(name, bound[name])]
        )
        name = f"{executor.fn.__module__}.{executor.fn.__name__}"
        lines = functools.partial(kernel_lines, Sanitizer._run.__code__)
        self._launch = Launch(name, self._taken, lines, self.findings)
        try:
            _run_kernel(executor, *arguments, **options)
        finally:
            self._launch = None

    def _to_handle(self, argument: Any) -> Any:
        converted = _to_handle(argument)
        if hasattr(argument, "data_ptr"):
            tensor = interpreter._unwrap_tensor(argument)
            converted.handle.data = self._launch.give(tensor, next(self._names), converted.handle.data)
        return converted

    def _set_grid(self, *grid: int) -> None:
        InterpreterBuilder.set_grid_dim(interpreter_builder, *grid)
        self._grid: Program = grid
        self._programs = self.order.programs(math.prod(grid))

    def _start_program(self, *place: int) -> None:
        """The next program begins: not the one that the interpreter means, but the one at its place in the order."""
        number = self._programs[np.ravel_multi_index(place, self._grid)]
        program = tuple(int(index) for index in np.unravel_index(number, self._grid))
        InterpreterBuilder.set_grid_idx(interpreter_builder, *program)
        self._launch.start(program, self._grid)

    def _load(self, pointers: TensorHandle, mask: Any, *options: Any) -> TensorHandle:
        size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        addresses, inside = self._launch.load(pointers.data, _mask(mask, pointers), size)
        return InterpreterBuilder.create_masked_load(
            interpreter_builder, TensorHandle(addresses, pointers.dtype), TensorHandle(inside, tl.int1), *options
        )

    def _store(self, pointers: TensorHandle, value: TensorHandle, mask: Any, *options: Any) -> None:
        values = np.broadcast_to(value.data, pointers.data.shape)
        addresses, inside = self._launch.store(pointers.data, _mask(mask, pointers), values)
        InterpreterBuilder.create_masked_store(
            interpreter_builder, TensorHandle(addresses, pointers.dtype), value, TensorHandle(inside, tl.int1), *options
        )

    def _refuse_atomics(self, *_: Any) -> None:
        raise NotImplementedError("the sanitizer does not follow atomic operations: the kernels here have none")


def _mask(mask: TensorHandle | np.ndarray, pointers: TensorHandle) -> np.ndarray:
    """bool, like the pointers; block pointers bring their mask as an array, and a scalar's comes as a whole number."""
    values = mask.data if isinstance(mask, TensorHandle) else mask
    return np.broadcast_to(np.asarray(values, bool), pointers.data.shape)


def _tensor_names(name: str, value: Any) -> Iterator[str]:
    """The names of the tensors in an argument, in the order in which the interpreter converts them."""
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from _tensor_names(f"{name}[{index}]", part)
    elif hasattr(value, "data_ptr") or isinstance(value, TensorDescriptor):
        yield name
