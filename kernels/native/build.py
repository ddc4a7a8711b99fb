"""Builds native.cpp, with the headers beside it, where it is first used, keeps the library, and loads it.

The library is kept in the user's cache directory by the digest of all that it depends on: the source, torch, the
instruction set, the compiler and its flags. One process builds it while others wait for its lock. The sum of its bytes
lies beside it: a library that a power cut has left a part of would end the process that loads it. Nothing here raises
where something is missing: an op that cannot be taken from here is taken from torch, and a run says why.
"""

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from concord.kernels.caches import user_cache
from concord.kernels.files import sync

SOURCE = Path(__file__).with_name("native.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno")
# Capability, as torch names it -> what the compiler may use. ATen's headers choose their vectors by the definition.
_INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}
_LIMIT = 300  # seconds: some ten are needed
_SHOWN = 120  # characters of a compiler's error


@dataclass(frozen=True, kw_only=True)
class Native:
    """What became of the library in this process.

    missing: why no op is taken from it; empty where torch.ops.concord_native holds them.
    built: seconds that building it took; None where it was there already.
    digest: of all that the library depends on; empty where it is missing.
    """

    missing: str = ""
    built: float | None = None
    digest: str = ""


def cache_folder() -> Path:
    """Where built libraries are kept: concord/native in the user's cache directory."""
    return user_cache("native")


def instruction_set() -> str:
    """What torch takes this processor for: AVX512, AVX2, or another name."""
    return torch.backends.cpu.get_cpu_capability()


@functools.cache
def native_library() -> Native:
    """Build the library where it is not kept yet, and load it; once a process."""
    instructions = instruction_set()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return Native(missing="native kernels are built on x86-64 Linux alone")
    if instructions not in _INSTRUCTIONS:
        return Native(missing=f"native kernels need AVX2 or AVX-512, and this processor has {instructions}")
    compiler = _compiler()
    if compiler is None:
        return Native(missing=f"there is no C++ compiler ({', '.join(_COMPILERS)}, or the one that CXX names)")
    try:
        return _load(compiler, _command(compiler, instructions))
    except OSError as error:
        return Native(missing=f"the native kernels cannot be kept or loaded: {_first_line(str(error))}")


def _compiler() -> str | None:
    asked = os.environ.get("CXX")
    found = (shutil.which(name) for name in ((asked,) if asked else _COMPILERS))
    return next((path for path in found if path), None)


def _command(compiler: str, instructions: str) -> list[str]:
    """The compiler's command, without what to write to. The OpenMP library is that which torch has loaded."""
    torch_folder = Path(torch.__file__).parent
    definitions = (f"-DCPU_CAPABILITY={instructions}", f"-DCPU_CAPABILITY_{instructions}")
    places = (f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}")
    return [compiler, *_FLAGS, *definitions, *_INSTRUCTIONS[instructions], *places, str(SOURCE)]


def _load(compiler: str, command: list[str]) -> Native:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest = hashlib.sha256()
    sources = (path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h"))))
    for part in (*sources, version, torch.__version__.encode(), *(word.encode() for word in command)):
        digest.update(b"\0" + part)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{digest.hexdigest()[:32]}.so"
    built = None
    with _alone(library.with_suffix(".lock")):
        if not _whole(library):
            started = time.monotonic()
            wrong = _build(command, library)
            if wrong:
                return Native(missing=f"the native kernels do not compile here: {wrong}")
            built = time.monotonic() - started
    torch.ops.load_library(str(library))
    return Native(built=built, digest=library.stem)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for the processes that hold the lock `path`, and keep others waiting."""
    import fcntl  # Linux alone comes here

    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sum_file(library: Path) -> Path:
    """Where the sha256 of a library's bytes is kept, as `_sum` gives it."""
    return library.with_suffix(".sha256")


def _sum(library: Path) -> bytes:
    """The sha256 of a library's bytes, in hex and a line; FileNotFoundError where there is none."""
    return f"{hashlib.sha256(library.read_bytes()).hexdigest()}\n".encode()


def _whole(library: Path) -> bool:
    """Whether the library is there, as it was built."""
    try:
        return _sum_file(library).read_bytes() == _sum(library)
    except FileNotFoundError:
        return False


def _build(command: list[str], library: Path) -> str:
    """Compile to `library`, at once whole or not at all; what is wrong in a line, or nothing."""
    handle, beside = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    try:
        done = subprocess.run(
            [*command, "-o", beside, "-ltorch_cpu", "-lc10"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT,
            check=False,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            return _first_line(errors[0] if errors else f"{command[0]} ended with {done.returncode}")
        sync(Path(beside))  # before its name is: else a power cut may leave the name with nothing behind it
        os.replace(beside, library)
        # Where a power cut comes before the whole sum is there, the library is built anew.
        _sum_file(library).write_bytes(_sum(library))
        sync(_sum_file(library))
        sync(library.parent)
        return ""
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than {_LIMIT} seconds"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:_SHOWN]
