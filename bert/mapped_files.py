"""Arrays too large for memory: written piece by piece before their length is known, and mapped from a safetensors file.

What is mapped is checked first, as `bert.tensor_files` checks what it reads, and its pages are let go again as they
are, so that the check takes no memory either. They are read from the disk whenever they are used, by a file that stays
as it was: whoever replaces it by a new one leaves it alone.
"""

import json
import math
import mmap
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from concord.bert.tensor_files import CHUNK, DIGEST, NAMES, DamagedFile, combined_digest

_DTYPES = {name: np.dtype(str(dtype).removeprefix("torch.")) for dtype, name in NAMES.items() if name != "BF16"}


class Spooled:
    """A vector that is appended to, in a file without a name, which is gone when the process is.

    Args:
        folder: on whose disk it lies.
        dtype: of its elements.
    """

    def __init__(self, folder: Path, dtype: type[np.generic]) -> None:
        self.dtype, self.nbytes = np.dtype(dtype), 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)

    def append(self, values: np.ndarray) -> None:
        """Append the elements of a vector of the same dtype; OSError where the disk is full."""
        if values.dtype != self.dtype:
            raise TypeError(f"{values.dtype} values are appended to {self.dtype} ones")
        self._file.write(memoryview(np.ascontiguousarray(values)).cast("B") if len(values) else b"")
        self.nbytes += values.nbytes

    @property
    def shape(self) -> tuple[int]:
        """How many elements there are."""
        return (self.nbytes // self.dtype.itemsize,)

    def blocks(self) -> Iterator[bytes]:
        """The bytes from the first to the last, `CHUNK` at a time."""
        self._file.seek(0)
        while block := self._file.read(CHUNK):
            yield block

    def __enter__(self) -> "Spooled":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def map_arrays(path: Path, of: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The vectors and tensors of a safetensors file, mapped and not to be written, and its metadata.

    of: what the file is expected to hold, in words. Raises DamagedFile where it is cut, is none, or its content has not
    the digest that it was written with; OSError where it cannot be read.
    """
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            raise DamagedFile(f"{path}: not a complete safetensors file (it is empty)") from None
    try:
        arrays, metadata = _views(mapped)
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise DamagedFile(f"{path}: not a complete safetensors file ({error})") from None
    if DIGEST not in metadata:
        raise DamagedFile(f"{path}: no digest of its content in it, expected {of}")
    described = [
        [name, f"torch.{arrays[name].dtype}", list(arrays[name].shape), list(map(zlib.crc32, parts(arrays[name])))]
        for name in sorted(arrays)
    ]
    if metadata[DIGEST] != combined_digest(described, metadata):
        raise DamagedFile(f"{path}: damaged, its content has not the digest that it was written with")
    return arrays, metadata


def _views(mapped: mmap.mmap) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays that a file's header describes; ValueError, or what JSON that is another raises, where it describes
    not all of the file once."""
    begin = 8 + int.from_bytes(mapped[:8], "little")
    if len(mapped) < begin:
        raise ValueError("its header is cut")
    header: dict[str, Any] = json.loads(mapped[8:begin])
    metadata = dict(header.pop("__metadata__", {}))
    found, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
            raise ValueError(f"{name} has no shape")
        if start != end or stop - start != math.prod(shape) * dtype.itemsize or begin + stop > len(mapped):
            raise ValueError(f"{name} lies elsewhere")
        end = stop
        found[name] = np.frombuffer(mapped, dtype, math.prod(shape), begin + start).reshape(shape)
    if begin + end != len(mapped):
        raise ValueError("more than it describes is in it")
    return found, metadata


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """A contiguous array as vectors of `CHUNK` bytes each but for the last; pages of a file are let go again after
    each."""
    flat = array.reshape(-1)
    step = CHUNK // flat.itemsize
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    for start in range(0, len(flat), step):
        yield flat[start : start + step]
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
