"""Where a user keeps what was found or built once for a machine."""

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """The folder concord/NAME in the user's cache directory: $XDG_CACHE_HOME, or ~/.cache. It need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "concord" / name
