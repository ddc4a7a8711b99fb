"""A lock on an open file, which one process holds until it closes the file or ends, on Linux, macOS and Windows."""

import os
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None

_FAR = 1 << 40  # no log is as long: Windows keeps others from reading what is locked


def locked(file: IO[Any]) -> bool:
    """Whether `file`, open for writing, now is this process's alone; False where another process holds it.

    It does not wait. The system releases the lock of a process that is killed. Where the file system or the system
    knows no locks, every process is given the file.
    """
    return _taken(file, alone=True)


def held(path: Path) -> bool:
    """Whether another process holds the lock on a file, which is left as it is. OSError where it cannot be read.

    It must not be asked by a process that has the file open and locked itself: closing it again gives up the lock.
    """
    with path.open("rb") as file:
        return not _taken(file, alone=False)


def _taken(file: IO[Any], *, alone: bool) -> bool:
    """Whether the lock is had, or there is none; alone: whether nobody may share it, for which a file is open for
    writing. Windows knows no shared ones."""
    try:
        if fcntl is not None:
            fcntl.lockf(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        elif msvcrt is not None:
            _lock_byte(file.fileno())
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _lock_byte(descriptor: int) -> None:
    """Lock one byte far beyond the end; the position in the file stays."""
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
