"""Predictions as CSV in the course's format."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert.files import replacing
from train.tasks import Task


def write_predictions(path: Path, task: Task, ids: Sequence[str], values: np.ndarray) -> None:
    """Write one row an example, `id, value`, under the header `id, <the task's prediction column>`.

    values: float64 [examples], class indices (written whole) or scores (clipped to the task's range, 4 decimals)."""
    lines = [f"id, {task.prediction_column}"]
    for example_id, value in zip(ids, values, strict=True):
        shown = f"{np.clip(value, task.low, task.high):.4f}" if task.kind == "regression" else f"{int(value)}"
        lines.append(f"{example_id}, {shown}")
    with replacing(path) as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
