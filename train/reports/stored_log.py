"""A run's metrics.jsonl read in pieces and kept as columns of numbers, so that a log of any length fits in memory."""

import math
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from concord.bert.errors import InputError
from concord.bert.files import read_data
from concord.train.outputs.log import read_lines

_LINES = 4096  # that are decoded at a time
_MOST_SUMS = 2048  # entries whose running sums are kept; what lies between two follows from their difference


class Column:
    """One number of many steps.

    Attributes:
        steps: float64 [logged], rising; values: float64 [logged], which need not be finite.
    """

    def __init__(self) -> None:
        self._steps, self._values = array("d"), array("d")

    def append(self, step: int, value: float | None) -> None:
        """One step more; None, which stands in files for what is undefined or not finite, is NaN here."""
        self._steps.append(step)
        self._values.append(math.nan if value is None else value)

    @property
    def steps(self) -> np.ndarray:
        """The steps in which there was a number."""
        return np.array(self._steps)

    @property
    def values(self) -> np.ndarray:
        """The numbers."""
        return np.array(self._values)


class StoredLog:
    """What metrics.jsonl tells.

    Args:
        pieces: of the log, in its order: entries, and how many damaged lines were left out among them. InputError where
            they are not entries of a fine-tuning run.
        path: of the log, for messages.

    Attributes:
        columns: "losses", "gradient_norms" and "cosines" -> name of a task or pair -> its column; and "step" ->
            merged_norm, learning_rate, loss_scale, seconds, tokens, examples -> its column.
        evaluations: each step that was evaluated, and task -> metric -> value, None where that was undefined or not
            finite.
        sums: steps, and float64 [steps, blocks, pairs, 3], the running sums of conflicts, cosines and meetings after
            them; at most 4096 entries are kept, the last one among them.
        blocks, pairs: their names.
        last: the last step's entry, or None; damaged: lines that were left out.
    """

    def __init__(self, pieces: Iterable[tuple[list[dict[str, Any]], int]], path: Path) -> None:
        self.columns: dict[str, dict[str, Column]] = {}
        self.evaluations: list[tuple[int, dict[str, dict[str, float | None]]]] = []
        self.blocks: list[str] = []
        self.pairs: list[str] = []
        self.last: Mapping[str, Any] | None = None
        self.damaged = 0
        self._sums: list[tuple[int, list[Any]]] = []
        self._stride, self._seen = 1, 0
        try:
            for entries, damaged in pieces:
                self.damaged += damaged
                for entry in entries:
                    self._add(entry)
            if self.last is not None and (not self._sums or self._sums[-1][0] != self.last["step"]):
                self._sums.append(self._sums_of(self.last))
            shape = (len(self._sums), len(self.blocks), len(self.pairs), 3)
            steps = np.array([step for step, _ in self._sums], dtype=np.int64)
            self.sums = steps, np.array([sums for _, sums in self._sums], dtype=np.float64).reshape(shape)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{path}: not the log of a fine-tuning run of this version ({type(error).__name__} {error})"
            ) from None

    def column(self, group: str, name: str) -> Column:
        """A column, which is empty where nothing is logged under that name."""
        return self.columns.get(group, {}).get(name, Column())

    def _add(self, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "evaluation":
            dev = {
                task: {name: None if value is None else float(value) for name, value in row.items()}
                for task, row in entry["dev"].items()
            }
            self.evaluations.append((int(entry["step"]), dev))
        if entry["event"] != "step":
            return
        step = int(entry["step"])
        if step <= (0 if self.last is None else self.last["step"]):
            raise ValueError(f"step {step} comes too late")
        for group in ("losses", "gradient_norms", "cosines"):
            for name, value in entry[group].items():
                self._put(group, name, step, value)
        for name in ("merged_norm", "learning_rate", "loss_scale", "seconds", "tokens", "examples", "trained_examples"):
            self._put("step", name, step, entry[name])
        if self.last is None:
            self.blocks = list(entry["conflicts"])
            self.pairs = list(entry["conflicts"][self.blocks[0]]) if self.blocks else []
        self.last = entry
        if self._seen % self._stride == 0:
            self._sums.append(self._sums_of(entry))
        self._seen += 1
        if len(self._sums) > 2 * _MOST_SUMS:
            # The sums run on: what is dropped between two entries is still in their difference.
            self._sums, self._stride = self._sums[::2], 2 * self._stride

    def _put(self, group: str, name: str, step: int, value: float | None) -> None:
        columns = self.columns.setdefault(group, {})
        if name not in columns:
            columns[name] = Column()
        columns[name].append(step, value)

    def _sums_of(self, entry: Mapping[str, Any]) -> tuple[int, list[Any]]:
        conflicts = entry["conflicts"]
        return entry["step"], [[conflicts[block][pair] for pair in self.pairs] for block in self.blocks]


def read_log(path: Path) -> StoredLog:
    """The log in a file, whose damaged lines are left out and counted; InputError where it cannot be read."""
    lines = read_data(path, "the log of a run").splitlines()
    return StoredLog((read_lines(b"\n".join(lines[n : n + _LINES])) for n in range(0, len(lines), _LINES)), path)


def last_entries(path: Path, most: int = 1 << 18) -> list[dict[str, Any]]:
    """The entries in the last `most` bytes of a log, without reading the others."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        return read_lines(file.read())[0]
