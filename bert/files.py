"""Files that are replaced whole: written beside and renamed into place, so that no reader meets half of one; and plain
files, of JSON and others, that are read with one line for whatever is wrong with them."""

import errno
import glob
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from concord.bert.errors import InputError

MOST_JSON = 1 << 26  # bytes; of settings and tokenizers the largest have a third of it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place where the block ends, and is removed where it fails.

    The file gets the mode that the umask gives. The path beside has a name that nobody can guess and lay a link at. A
    link at `path` is replaced as a file is, and what it points to stays: nobody but the user says what is written, and
    a folder that came from elsewhere may hold links. Raises an OSError that names `path` where it cannot be written, as
    on a full disk, whichever way the block was told of that.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.{os.getpid()}.part")
    try:
        beside.touch(exist_ok=False)
        # Safetensors puts a temporary file of its own into this place, which nobody else may read.
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def parts_of(path: Path) -> list[Path]:
    """What was being written beside `path` by processes that were killed."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.*.part"))


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
