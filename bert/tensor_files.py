"""Tensors in safetensors files that carry a digest of their content, which is checked wherever they are read.

The digest stands in the file's own metadata, so that a file and its digest are replaced together. It is the SHA-256 of
the metadata, the tensors' names, dtypes and shapes, and the CRC-32 of each chunk of their bytes: a CRC finds every
burst of 32 bits, misses other damage of a chunk once in 2^32, and costs a fraction of what SHA-256 of all would.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.files import is_file, replacing

DIGEST = "concord.digest"  # in the metadata
FILES = "concord.files"  # in the metadata: a JSON object, the path of a file from the tensors' folder -> its SHA-256
CHUNK = 4 << 20  # bytes
NAMES = {  # what safetensors calls dtypes
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class DamagedFile(InputError):
    """What a file holds is not what was written into it: it is cut, or its content has another digest."""


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    tensors: name -> tensor on the CPU; metadata: name -> text, the digest among them where the file carries one.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


class Stored(Protocol):
    """A vector that lies elsewhere than in memory, see `bert.mapped_files.Spooled`: its NumPy dtype, its shape, and how
    many bytes it has."""

    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, `CHUNK` at a time."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | Stored], metadata: Mapping[str, str], *, earlier: Path | None = None
) -> str:
    """Write tensors of any device, and metadata, as a safetensors file with a digest, which is returned.

    Equal content gives equal bytes. earlier: where the file that was at `path` is kept. OSError as `replacing` raises.
    """
    # As safetensors orders them: wide dtypes first, so that each tensor begins at a multiple of its width.
    ordered = sorted(tensors.items(), key=lambda item: (-_torch_dtype(item[1]).itemsize, item[0]))
    on_host = {
        name: tensor.detach().cpu().contiguous() if isinstance(tensor, Tensor) else tensor for name, tensor in ordered
    }
    digest = content_digest(on_host, metadata)
    ends = [0]
    for tensor in on_host.values():
        ends.append(ends[-1] + tensor.nbytes)
    header: dict[str, object] = {"__metadata__": dict(sorted({**metadata, DIGEST: digest}.items()))}
    for (name, tensor), offsets in zip(on_host.items(), pairwise(ends), strict=True):
        header[name] = {"dtype": NAMES[_torch_dtype(tensor)], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, earlier=earlier) as beside, beside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in on_host.values():
            file.writelines([_bytes(tensor)] if isinstance(tensor, Tensor) else tensor.blocks())
    return digest


def read_tensors(path: Path, *, digest_required: bool = False, of: str = "weights as safetensors") -> TensorFile:
    """What a safetensors file holds, whose digest, if it carries one, is that of its content.

    of: what the file is expected to hold, in words. Raises DamagedFile where it is cut or its digest is another, or it
    has none though that is required; InputError where it is missing, or cannot be mapped into memory.
    """
    if not is_file(path):
        raise InputError(f"{path}: no such file, expected {of}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: not a complete safetensors file ({error})") from None
    except Exception as error:  # of torch, which cannot map it, and of the library, which torch has no dtype for
        raise InputError(f"{path}: it cannot be read as safetensors ({type(error).__name__}: {error})") from None
    digest = metadata.get(DIGEST)
    if digest is None and digest_required:
        raise DamagedFile(f"{path}: no digest of its content in it, expected {of}")
    if digest is not None and digest != content_digest(tensors, metadata):
        raise DamagedFile(f"{path}: damaged, its content has not the digest that it was written with")
    return TensorFile(tensors, metadata)


def content_digest(tensors: Mapping[str, Tensor | Stored], metadata: Mapping[str, str]) -> str:
    """The digest (hex) of contiguous tensors on the CPU and of metadata, in which an earlier digest does not count."""
    names = sorted(tensors)
    views = {name: _bytes(tensor) for name in names if isinstance(tensor := tensors[name], Tensor)}
    starts = [(name, start) for name, view in views.items() for start in range(0, len(view), CHUNK)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        sums = list(pool.map(lambda at: zlib.crc32(views[at[0]][at[1] : at[1] + CHUNK]), starts))
    of_tensors: dict[str, list[int]] = {name: [] for name in names}
    for (name, _), found in zip(starts, sums, strict=True):
        of_tensors[name].append(found)
    for name in names:
        if name not in views:
            of_tensors[name] = list(map(zlib.crc32, tensors[name].blocks()))
    described = [
        [name, str(_torch_dtype(tensors[name])), list(tensors[name].shape), of_tensors[name]] for name in names
    ]
    return combined_digest(described, metadata)


def combined_digest(described: list[list[object]], metadata: Mapping[str, str]) -> str:
    """The digest (hex) of metadata and of tensors in the order of their names, of each its name, torch's name of its
    dtype, its shape, and the CRC-32 of each `CHUNK` of its bytes."""
    rest = sorted((name, text) for name, text in metadata.items() if name != DIGEST)
    return hashlib.sha256(json.dumps([rest, described]).encode()).hexdigest()


def _torch_dtype(tensor: Tensor | Stored) -> torch.dtype:
    return tensor.dtype if isinstance(tensor, Tensor) else getattr(torch, tensor.dtype.name)


def _bytes(tensor: Tensor) -> memoryview:
    # An empty one, of whatever strides, cannot be viewed as bytes.
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")


def digests_of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Metadata that seals files which belong to the tensors of a file in `folder`: for `check_files`."""
    found = {name: _file_digest(folder / name) for name in names}
    return {FILES: json.dumps(found, sort_keys=True)}


def check_files(folder: Path, metadata: Mapping[str, str]) -> None:
    """DamagedFile where a file that the metadata of a file in `folder` seals is not as it was then; InputError where
    one is missing."""
    try:
        sealed = dict(json.loads(metadata.get(FILES, "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{folder}: what its tensors' metadata seals is no object ({error})") from None
    for name, digest in sealed.items():
        path = folder / name
        if not is_file(path):
            raise InputError(f"{path}: no such file, expected the one that the run wrote")
        if _file_digest(path) != digest:
            raise DamagedFile(f"{path}: damaged or edited, its content is not what the run wrote")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
