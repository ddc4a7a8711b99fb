"""Where a user keeps what was found or built once for a machine."""

import functools
import os
import stat
import tempfile
from pathlib import Path


def user_cache(name: str) -> Path:
    """The folder concord/NAME in the user's cache directory: $XDG_CACHE_HOME, or ~/.cache. It need not be there.

    Who has no home, as a container's user may be who is a number alone, has a folder of the temporary directory, which
    nobody else can write to. OSError where there is no such directory either.
    """
    asked = os.environ.get("XDG_CACHE_HOME")
    return (Path(asked) if asked else _of_home()) / "concord" / name


def _of_home() -> Path:
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return _of_number()


def _of_number() -> Path:
    """The folder that is the user's by number, in a directory where others may have laid one of that name."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"concord-{user}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not stat.S_IMODE(found.st_mode) & 0o077
        return folder if own else _of_process()
    return folder


@functools.cache
def _of_process() -> Path:
    """A new folder, which is this process's alone."""
    return Path(tempfile.mkdtemp(prefix="concord-"))
