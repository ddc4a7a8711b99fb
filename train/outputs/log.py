"""metrics.jsonl: what a run tells of its steps while it trains, an object a line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.train.outputs.locks import locked
from concord.train.outputs.names import METRICS_FILE

WHOLE_MODEL = "model"  # beside the blocks of parameters


class MetricsLog:
    """Appends one JSON object a line to metrics.jsonl, which no other process may write meanwhile.

    Args:
        directory: of the run.
        keep: bytes to keep of an earlier part of the run; what follows them is cut off. InputError where there are not
            as many, or another process writes the log.
    """

    def __init__(self, directory: Path, keep: int = 0) -> None:
        self._path = directory / METRICS_FILE
        found = self._path.stat().st_size if self._path.exists() else 0
        if found < keep:
            raise InputError(
                f"{self._path}: {found} bytes, expected at least the {keep} that were there when the run was saved"
            )
        self._file = self._path.open("a+b")
        if not locked(self._file):
            raise InputError(f"{self._path}: another process is writing it, expected a run that has stopped")
        self._file.truncate(keep)
        # Truncation leaves the position where it was, and `length` would count what has been cut off.
        self._file.seek(keep)

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry and hand it to the system at once; OSError that names the file where it cannot."""
        self._file.write(json.dumps(entry, allow_nan=True).encode() + b"\n")
        try:
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def task_pairs(tasks: list[str]) -> list[tuple[str, int, int]]:
    """Each pair of tasks: its name, and the two tasks' places."""
    return [(f"{tasks[i]}-{tasks[j]}", i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]


def conflict_shares(entry: Mapping[str, Any]) -> dict[str, float]:
    """For each pair of tasks that met before a logged step, the share of those steps in which they conflicted."""
    return {pair: count / met for pair, (count, _, met) in entry["conflicts"][WHOLE_MODEL].items() if met}
