"""What waits for the disk."""

import errno
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder.

    On Windows, and on file systems that know no such thing, a folder's names are left to the system.
    """
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    # Windows syncs what is open for writing alone; elsewhere a file may be one that nobody may write any more.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)
