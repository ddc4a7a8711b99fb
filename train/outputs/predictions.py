"""Predictions as CSV in the course's format, or as JSON, an object a line."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.train.data.tasks import Task
from concord.train.objectives.answers import label_names

TaskAnswers = tuple[Task, np.ndarray, np.ndarray]
"""A task, its predictions and its scores."""


def write_predictions(path: Path, task: Task, ids: Sequence[str], values: np.ndarray) -> None:
    """Write `prediction_text` to a file, which is replaced whole."""
    text = prediction_text(task, ids, values)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def prediction_text(task: Task, ids: Sequence[str], values: np.ndarray) -> str:
    """One row an example, `id, value`, under the header `id, <the task's prediction column>`, see `_csv`.

    values: float64 [examples], see `answer_text`."""
    rows = [[name, answer_text(task, value)] for name, value in zip(ids, values, strict=True)]
    return _csv([["id", task.prediction_column], *rows], [task])


def form_of(path: Path) -> str:
    """The form of a file of answers by its name: jsonl where that ends so, csv where it ends so or has no ending, as
    pipes have none; InputError for a form that is not written."""
    suffix = path.suffix.lower()
    if suffix not in ("", ".csv", ".jsonl"):
        raise InputError(f"--output {path}: answers are not written as {suffix}, expected .csv or .jsonl")
    return "jsonl" if suffix == ".jsonl" else "csv"


def answers_text(ids: Sequence[str], answers: Sequence[TaskAnswers], *, form: str, scores: bool) -> str:
    """What one or several tasks answer to the same rows, a line a row.

    ids: of the rows; answers: of each task, float64 [rows] as for `answer_text` and float32 [rows, labels]; form: csv
    or jsonl; scores: whether each label's score is written too (a regression's answer is its score).

    As csv one task without scores is `prediction_text`'s; otherwise there is a column a task, called like the task, and
    TASK.LABEL for each score. As jsonl each line is an object with `id`, `answers` (task -> label, a number where it
    has no name) and `scores` (task -> label -> score). ValueError for another form.
    """
    if form == "jsonl":
        return "".join(_json_line(row, name, answers, scores) for row, name in enumerate(ids))
    if form != "csv":
        raise ValueError(f"form {form!r}: expected csv or jsonl")
    if len(answers) == 1 and not scores:
        return prediction_text(answers[0][0], ids, answers[0][1])
    header, lines = ["id"], [[name] for name in ids]
    for task, values, own in answers:
        header.append(task.name)
        for line, value in zip(lines, values, strict=True):
            line.append(answer_text(task, value))
        if scores:
            header += [f"{task.name}.{label}" for label in label_names(task)]
            for line, row in zip(lines, own, strict=True):
                line += [f"{score:.6f}" for score in row[: len(label_names(task))]]
    return _csv([header, *lines], [task for task, _, _ in answers])


def _json_line(row: int, name: str, answers: Sequence[TaskAnswers], scores: bool) -> str:
    content: dict[str, Any] = {"id": name, "answers": {}}
    for task, values, _ in answers:
        value = float(values[row])
        content["answers"][task.name] = label_names(task)[int(value)] if label_names(task) else value
    if scores:
        content["scores"] = {
            task.name: {str(label): round(float(score), 6) for label, score in zip(labels, own[row], strict=True)}
            for task, _, own in answers
            if (labels := label_names(task))
        }
    return json.dumps(content, ensure_ascii=False) + "\n"


def answer_text(task: Task, value: float) -> str:
    """An answer as `label_text` writes labels, a score clipped to the task's range."""
    return label_text(task, float(np.clip(value, task.low, task.high)) if task.kind == "regression" else value)


def label_text(task: Task, value: float) -> str:
    """A class as the data call it, or else its index as a whole number; a score with decimals to tell 10,000 parts of
    the task's range from one another, four at least."""
    if task.labels:
        return task.labels[int(value)]
    if task.kind != "regression":
        return f"{int(value)}"
    decimals = max(4, 4 - math.floor(math.log10(task.high - task.low)))
    return f"{value:.{decimals}f}"


def _csv(rows: Sequence[Sequence[str]], tasks: Sequence[Task]) -> str:
    """Rows as CSV, cells that a reader would take apart in quotes. The course's layout has a space behind each comma;
    others have none, nor has that layout where a cell is in quotes, which have to follow the comma."""
    lines = [[_field(cell) for cell in row] for row in rows]
    spaced = not any(task.table for task in tasks) and not any(cell.startswith('"') for line in lines for cell in line)
    return "".join(f"{(', ' if spaced else ',').join(line)}\n" for line in lines)


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n\r') else text
