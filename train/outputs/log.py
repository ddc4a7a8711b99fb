"""metrics.jsonl: what a run tells of its steps while it trains, an object a line, each with a checksum of its own."""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.train.outputs.locks import locked
from concord.train.outputs.names import METRICS_FILE
from concord.train.outputs.strict_json import json_text
from concord.train.reporter import Reporter

WHOLE_MODEL = "model"  # beside the blocks of parameters
MOST_SKIPPED = 50  # steps in a row, after which a run ends


class MetricsLog:
    """Appends one JSON object a line to metrics.jsonl, which no other process may write meanwhile.

    Each object ends with "crc", the CRC-32 (hex) of the line without it, which tells damaged lines from sound ones.

    Args:
        directory: of the run. InputError where another process writes its log.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / METRICS_FILE
        self._file = self._path.open("a+b")
        if not locked(self._file):
            self._file.close()
            raise InputError(f"{self._path}: another process is writing it, expected a run that has stopped")

    def cut(self, keep: int, reporter: Reporter) -> None:
        """Keep the first bytes, those of an earlier part of the run, and cut off what follows them.

        reporter: is warned where there are not as many, or some lines are damaged. The state that a run goes on from is
        whole without them.
        """
        found = self._file.seek(0, os.SEEK_END)
        if found < keep:
            reporter.warn(f"{self._path}: {found} bytes, {keep} when the run was saved; what is missing stays so")
        # Truncation leaves the position where it was, and `sync` would count what has been cut off.
        self._file.truncate(min(keep, found))
        self._file.seek(0, os.SEEK_END)
        text = self._text()
        if text and not text.endswith(b"\n"):
            self._file.write(b"\n")  # so that the next entry has a line of its own
        if damaged := read_lines(text)[1]:
            reporter.warn(f"{self._path}: {damaged} damaged lines; summary and pictures do without them")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry, with null for numbers that are not finite, and hand it to the system at once; OSError that
        names the file where it cannot."""
        text = json_text(entry)
        check = zlib.crc32(text.encode())
        self._do(lambda: (self._file.write(f'{text[:-1]}, "crc": "{check:08x}"}}\n'.encode()), self._file.flush()))

    def sync(self) -> int:
        """Wait until the disk has what is written; how many bytes that is. OSError that names the file."""
        self._do(lambda: (self._file.flush(), os.fsync(self._file.fileno())))
        return self._file.tell()

    def entries(self) -> tuple[list[dict[str, Any]], int]:
        """What is written, without the checksums, and how many lines are left out because they are damaged.

        It is read by the file that is open: to open another and close it again would give up the lock.
        """
        return read_lines(self._text())

    def close(self) -> None:
        """Close the file, and let other processes write it."""
        self._file.close()

    def _text(self) -> bytes:
        self._file.seek(0)
        return self._file.read()  # to the end, where the position is again

    def _do(self, operation: Callable[[], Any]) -> None:
        try:
            operation()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def read_lines(text: bytes) -> tuple[list[dict[str, Any]], int]:
    """The entries of a log's text, without the checksums, and how many lines are left out because they are damaged."""
    lines = text.splitlines()
    found = [entry for entry in map(_entry, lines) if entry is not None]
    return found, len(lines) - len(found)


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry that a line holds; None where it is damaged, or is no entry though its checksum is right."""
    text, mark, check = line.rpartition(b', "crc": "')
    text += b"}"
    if not mark or check != f'{zlib.crc32(text):08x}"}}'.encode():
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # Whoever reads an entry asks first of what and of which step it tells.
    return entry if isinstance(entry.get("event"), str) and type(entry.get("step")) is int else None


def task_pairs(tasks: list[str]) -> list[tuple[str, int, int]]:
    """Each pair of tasks: its name, and the two tasks' places."""
    return [(f"{tasks[i]}-{tasks[j]}", i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]


def conflict_shares(entry: Mapping[str, Any]) -> dict[str, float]:
    """For each pair of tasks that met before a logged step, the share of those steps in which they conflicted."""
    return {pair: count / met for pair, (count, _, met) in entry["conflicts"][WHOLE_MODEL].items() if met}
