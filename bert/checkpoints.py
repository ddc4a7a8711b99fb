"""The weights of a model directory: one safetensors file or several with an index, or, for want of these, pickles.

A pickle is code for whoever reads it. It is read by torch's reader of tensors alone (`weights_only=True`), in a process
of its own, which leaves a safetensors file.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from concord.bert import pickle_child
from concord.bert.errors import InputError, shown
from concord.bert.files import is_file, read_json_object
from concord.bert.names import INDEX_ENDING, PICKLE_FILE, WEIGHTS_FILE
from concord.bert.tensor_files import read_tensors

_SECONDS = 600.0  # for the child, on a machine that is busy
_CANDIDATES = (WEIGHTS_FILE, WEIGHTS_FILE + INDEX_ENDING, PICKLE_FILE, PICKLE_FILE + INDEX_ENDING)


def find_weights(directory: Path) -> Path:
    """The file that says where a directory's weights are: the weights themselves, or the index of several files.

    InputError where there is none.
    """
    for name in _CANDIDATES:
        if is_file(directory / name):
            return directory / name
    raise InputError(f"{directory / WEIGHTS_FILE}: no such file, expected weights as safetensors")


def size_of(path: Path) -> int:
    """The bytes of the weights that `find_weights` has found; InputError where one of several files is missing."""
    return sum(part.stat().st_size for part in _parts(path))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that `find_weights` has found, on the CPU, and remarks on them, a phrase each.

    InputError where a file is missing, cut or another format, cannot be mapped into memory, or carries a digest, as
    ours do, that is not its content's; or the index and its files do not agree.
    """
    if path.name.startswith(PICKLE_FILE):
        return _read_pickles(_parts(path)), ["its weights are a pickle, read as tensors alone in a process of its own"]
    tensors: dict[str, Tensor] = {}
    for part in _parts(path):
        found = read_tensors(part).tensors
        if double := tensors.keys() & found.keys():
            raise InputError(f"{part}: {min(double)} is in another file of {path} too, expected it once")
        tensors |= found
    if path.name.endswith(INDEX_ENDING) and (missing := _weight_map(path).keys() - tensors.keys()):
        raise InputError(f"{path}: {len(missing)} tensors are in none of its files, {min(missing)} being one")
    return tensors, []


def _parts(path: Path) -> list[Path]:
    """The files with tensors, in order; InputError where one of them is missing."""
    if not path.name.endswith(INDEX_ENDING):
        return [path]
    parts = [path.with_name(name) for name in sorted(set(_weight_map(path).values()))]
    if missing := [part.name for part in parts if not is_file(part)]:
        there = [part.name for part in parts if is_file(part)]
        raise InputError(
            f"{path}: {len(missing)} of its {len(parts)} files are missing, {missing[0]} being one; "
            f"there: {', '.join(there[:3]) or 'none'}"
        )
    return parts


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> the name of the file that it is in, in the index's own folder."""
    found = read_json_object(path, "an index of weights").get("weight_map")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: weight_map is {shown(found)}, expected an object with the file of each tensor")
    ending = Path(path.name.removesuffix(INDEX_ENDING)).suffix
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(ending):
            raise InputError(f"{path}: a file is {shown(name)}, expected the name of one that ends with {ending}")
    return found


def _read_pickles(paths: list[Path]) -> dict[str, Tensor]:
    """The tensors of pickles; InputError where the child does not take them."""
    size = sum(path.stat().st_size for path in paths)
    with tempfile.TemporaryDirectory(prefix="concord-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / WEIGHTS_FILE
        # Without -P its own folder would come first where the child looks for modules.
        command = [sys.executable, "-P", pickle_child.__file__, str(size), str(target), *map(str, paths)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        try:
            child = subprocess.run(command, capture_output=True, env=environment, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"{paths[0]}: not read within {_SECONDS:g} s") from None
        if child.returncode:
            reason = child.stdout.decode("utf-8", "replace") or f"exit code {child.returncode}"
            if child.returncode < 0:
                reason = f"its reader ended with {signal.Signals(-child.returncode).name}"
            raise InputError(f"{paths[0]}: not a pickle of tensors alone ({reason})")
        return read_tensors(target).tensors
