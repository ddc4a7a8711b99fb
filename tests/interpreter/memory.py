"""Which bytes a launch may touch: those of the tensors given to it, and of tensors that tables of addresses name.

The pointer of an argument carries the argument's number in the 16 bits that no address uses. Arithmetic on the pointer
leaves them alone, so that an access is held against the very tensor that its pointer began in, and not against whatever
lies where it ends. A pointer made from an integer in a table carries none: it may reach any tensor that still exists
and whose address has been asked for.
"""

import weakref
from collections.abc import Iterator

import numpy as np
from torch import Tensor

_address_of = Tensor.data_ptr  # which the sanitizer replaces, to hear of what `TakenAddresses` notes
_ADDRESS_BITS = 48
_ADDRESS = np.uint64((1 << _ADDRESS_BITS) - 1)


def addresses_of(pointers: np.ndarray) -> np.ndarray:
    """`pointers` (uint64) without the numbers of their arguments."""
    return pointers & _ADDRESS


class View:
    """The bytes of one tensor, which need not be dense."""

    def __init__(self, tensor: Tensor, name: str) -> None:
        self.name = name
        self.start = _address_of(tensor)
        self.item = tensor.element_size()
        self.storage = tensor.untyped_storage().data_ptr()
        self.storage_size = tensor.untyped_storage().nbytes()
        self._described = f"`{name}`, {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        dimensions = zip(tensor.stride(), tensor.shape, strict=True)
        dimensions = sorted((stride * self.item, size) for stride, size in dimensions if stride > 0 and size > 1)
        self._run = self.item if tensor.numel() else 0  # bytes side by side
        self._steps: list[tuple[int, int]] = []  # from one run to the next, (bytes apart, how many), the widest first
        for step, size in dimensions:
            if step == self._run and not self._steps:
                self._run *= size
            else:
                self._steps.insert(0, (step, size))
        self.extent = self._run + sum(step * (size - 1) for step, size in self._steps)  # bytes from first to last

    def holds(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Whether `size` bytes at each of `offsets` (int64, from the start) belong to the tensor: bool like offsets."""
        rest = offsets
        for step, count in self._steps:
            rest = rest - np.minimum(rest // step, count - 1) * step
        return (offsets >= 0) & (rest + size <= self._run)

    def describe(self, offset: int, size: int) -> str:
        """`size` bytes at `offset` from the start, in words."""
        where = f"bytes {offset} to {offset + size - 1} of {self._described}"
        if self.holds(np.array([offset]), size)[0]:
            return where
        if offset >= 0 and offset + size <= self.extent:
            return f"{where}, between its elements"
        return f"{where}, which has bytes 0 to {self.extent - 1}"


class TakenAddresses:
    """The tensors whose address somebody has asked for, as long as they exist: what a table of addresses may name."""

    def __init__(self) -> None:
        self._tensors: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def note(self, tensor: Tensor) -> None:
        """`tensor.data_ptr()` was called."""
        self._tensors[id(tensor)] = tensor

    def views(self) -> list[View]:
        """Those that still exist."""
        return [View(tensor, "a tensor of a table") for tensor in self._tensors.values() if tensor.numel()]


class Memory:
    """The tensors of one launch."""

    def __init__(self, taken: TakenAddresses) -> None:
        self._taken = taken
        self._given: list[View] = []
        self._named: list[View] | None = None

    def give(self, tensor: Tensor, name: str, pointer: np.ndarray) -> np.ndarray:
        """An argument of the launch: its `pointer`, with its number."""
        self._given.append(View(tensor, name))
        return pointer | np.uint64(len(self._given) << _ADDRESS_BITS)

    def find(self, pointers: np.ndarray, size: int) -> Iterator[tuple[View | None, np.ndarray, np.ndarray]]:
        """The tensors that `size` bytes at each of `pointers` (uint64 [n]) belong to.

        Yields view, places, offsets: which of the pointers begin in the view, and how many bytes after its start. The
        places may lie outside of it; there is no view where a pointer carries no number and nothing lies there.
        """
        numbers = pointers >> np.uint64(_ADDRESS_BITS)
        addresses = addresses_of(pointers).astype(np.int64)
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            if number == 0:
                yield from self._find_named(addresses, places, size)
            elif number <= len(self._given):
                view = self._given[int(number) - 1]
                yield view, places, addresses[places] - view.start
            else:
                yield None, places, addresses[places]

    def _find_named(
        self, addresses: np.ndarray, places: np.ndarray, size: int
    ) -> Iterator[tuple[View | None, np.ndarray, np.ndarray]]:
        if self._named is None:
            self._named = self._taken.views()
        for view in self._named:
            if not len(places):
                return
            offsets = addresses[places] - view.start
            inside = view.holds(offsets, size)
            if inside.any():
                yield view, places[inside], offsets[inside]
                places = places[~inside]
        if len(places):
            yield None, places, addresses[places]
