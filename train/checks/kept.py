"""What is found once for a machine, as JSON in the user's cache directory: kept, and read where it can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from concord.bert.files import replacing, sweep

Found = TypeVar("Found")


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write what was found. A cache that cannot be written costs the next run its time, and this one nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, alone=False)
        with replacing(path) as beside:
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError:
        return


def read_kept(path: Path, parse: Callable[[dict[str, Any]], Found | None]) -> Found | None:
    """What `parse` makes of what is kept, None where that is nothing, or damaged: it is found anew then.

    parse: may fail as code does that takes its input for what `keep` wrote.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
