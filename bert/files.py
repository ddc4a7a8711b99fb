"""Files and folders that are replaced whole: written beside and renamed into place, so that no reader meets half of
one, and no power cut leaves half of one; and plain files, of JSON and others, that are read with one line for whatever
is wrong."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import concord
from concord.bert.errors import InputError
from concord.kernels.files import sync

PROJECT = Path(concord.__file__).resolve().parents[1]  # where the package is found: a checkout, or what is installed
# What `replacing` calls a file, and `building` a folder, while it is written: with its process.
_PART, _FOLDER_PART = re.compile(r".+\.(\d+)\.part"), re.compile(r"(.+)\.[0-9a-f]{16}\.(\d+)\.part")
MOST_JSON = 1 << 26  # bytes; of settings and tokenizers the largest have a third of it


@contextmanager
def replacing(path: Path, *, earlier: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place where the block ends, and is removed where it fails.

    Once this has returned, the disk has the file: a power cut leaves the earlier one or the new one, whole. earlier: a
    path in the same folder where the file is kept that is replaced; at any time one of the two is there.
    The file gets the mode that the umask gives. The path beside has a name that nobody can guess and lay a link at. A
    link at `path` is replaced as a file is, and what it points to stays: nobody but the user says what is written, and
    a folder that came from elsewhere may hold links. Raises an OSError that names `path` where it cannot be written, as
    on a full disk.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.{os.getpid()}.part")
    try:
        beside.touch(exist_ok=False)
        yield beside
        sync(beside)  # before its name is: else a power cut may leave the name with nothing behind it
        if earlier is not None and path.is_file():
            path.replace(earlier)
        beside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write files into; it takes `path`'s place, which is missing or an empty folder, where
    the block ends, and is removed where it fails. As with `replacing`, the disk has all of it then. What killed
    processes were writing for the same `path` is removed.

    Raises an OSError that names `path` where it cannot be written.
    """
    path = Path(os.path.abspath(path))
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.{os.getpid()}.part")
    try:
        make_folder(path.parent)
        for part in path.parent.iterdir():
            match = _FOLDER_PART.fullmatch(part.name)
            if match and match[1] == path.name:
                _remove_unless_built(part, int(match[2]))
        beside.mkdir()
        yield beside
        for written in sorted(beside.rglob("*"), reverse=True):
            sync(written)
        sync(beside)
        if path.is_dir():
            path.rmdir()
        beside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, so that a power cut does not take them away again."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file of text, synced and renamed into place, in a folder that is made where it is missing."""
    make_folder(path.parent)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sweep(folder: Path, *, alone: bool) -> None:
    """Remove what killed processes were writing in a folder with `replacing`, or `building`.

    alone: whether no other process is replacing files there, as where the caller holds the folder's lock; otherwise
    what belongs to a process that is running stays, as a folder does that one is building. A folder that is missing has
    nothing to sweep.
    """
    for part in folder.iterdir() if folder.is_dir() else ():
        match, of_folder = _PART.fullmatch(part.name), _FOLDER_PART.fullmatch(part.name)
        if part.is_dir() and not part.is_symlink():
            if of_folder:
                _remove_unless_built(part, int(of_folder[2]))
        elif match and (alone or not _running(int(match[1]))):
            part.unlink(missing_ok=True)


def _remove_unless_built(part: Path, process: int) -> None:
    """Remove a folder that a process was building, if it has ended."""
    if not _running(process):
        shutil.rmtree(part, ignore_errors=True)


def _running(process: int) -> bool:
    """Whether a process of that number may be running on this machine."""
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def exists(path: Path) -> bool:
    """Whether there is something at a path that a user has named; InputError where the system does not answer, as where
    a name is too long for it, or lies in a folder that may not be looked into."""
    return _answer(path, Path.exists)


def is_file(path: Path) -> bool:
    """Whether a path that a user has named is a plain file's; InputError as from `exists`."""
    return _answer(path, Path.is_file)


def is_folder(path: Path) -> bool:
    """Whether a path that a user has named is a folder's; InputError as from `exists`."""
    return _answer(path, Path.is_dir)


def _answer(path: Path, question: Callable[[Path], bool]) -> bool:
    try:
        return question(path)
    except OSError as error:
        raise InputError(f"{path}: not to be looked at ({error.strerror}), expected a path that is") from None


def read_data(path: Path, expected: str, most: int | None = None) -> bytes:
    """The content of a plain file that came from outside.

    most: bytes that it may have, None for any number. InputError that names the file, and what was `expected`, where it
    is missing or unreadable, has more, or is a pipe or a device, which might never end, or never begin.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path}: a pipe or a device, expected {expected} in a plain file")
            content = file.read(-1 if most is None else most + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected {expected}") from None
    except ValueError as error:  # no file system takes such a name
        raise InputError(f"{path}: cannot be read ({error}), expected {expected}") from None
    if most is not None and len(content) > most:
        raise InputError(f"{path}: more than {most} bytes, expected {expected}")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """An opener that does not wait at a pipe for somebody to write into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file holds; InputError that names the file where `read_data` raises it or it is not JSON, and what
    was `expected`."""
    try:
        return json.loads(read_data(path, expected, MOST_JSON).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}), expected {expected}") from None


def read_json_object(path: Path, expected: str) -> dict[str, Any]:
    """The object that a JSON file holds; InputError where `read_json` raises it or the file holds anything else."""
    content = read_json(path, expected)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a {type(content).__name__}, expected {expected}")
    return content
