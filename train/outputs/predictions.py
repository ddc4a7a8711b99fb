"""Predictions as CSV in the course's format."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from concord.bert.files import replacing
from concord.train.data.tasks import Task


def write_predictions(path: Path, task: Task, ids: Sequence[str], values: np.ndarray) -> None:
    """Write `prediction_text` to a file, which is replaced whole."""
    text = prediction_text(task, ids, values)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def prediction_text(task: Task, ids: Sequence[str], values: np.ndarray) -> str:
    """One row an example, `id, value`, under the header `id, <the task's prediction column>`.

    values: float64 [examples], see `answer_text`. An id or a label that a reader would take apart stands in quotes."""
    lines = [f"id, {task.prediction_column}"]
    lines += [f"{_field(name)}, {_field(answer_text(task, value))}" for name, value in zip(ids, values, strict=True)]
    return "\n".join(lines) + "\n"


def answer_text(task: Task, value: float) -> str:
    """A class as the data call it, or else its index as a whole number; a score clipped to the task's range, with
    decimals to tell 10,000 parts of it from one another, four at least."""
    if task.labels:
        return task.labels[int(value)]
    if task.kind != "regression":
        return f"{int(value)}"
    decimals = max(4, 4 - math.floor(math.log10(task.high - task.low)))
    return f"{np.clip(value, task.low, task.high):.{decimals}f}"


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n\r') else text
