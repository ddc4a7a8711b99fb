"""Files that are replaced whole: written beside and renamed into place, so that no reader meets half of one; and
JSON that is read with one line for whatever is wrong with it."""

import errno
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from concord.bert.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place where the block ends, and is removed where it fails.

    The file gets the mode that the umask gives. A link stays, and what it points to is replaced; what is no file, such
    as a pipe or /dev/stdout, is itself given to be written to. Raises an OSError that names `path` where it cannot be
    written, as on a full disk, whichever way the block was told of that.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    if path.is_symlink():
        path = path.resolve()
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        beside.touch()
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


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file holds; InputError that names the file where it is unreadable or not JSON, and what was
    `expected`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected {expected}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}), expected {expected}") from None


def read_json_object(path: Path, expected: str) -> dict[str, Any]:
    """The object that a JSON file holds; InputError where `read_json` raises it or the file holds anything else."""
    content = read_json(path, expected)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a {type(content).__name__}, expected {expected}")
    return content
