"""Files that are replaced whole: written beside and renamed into place, so that no reader meets half of one."""

import errno
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


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
