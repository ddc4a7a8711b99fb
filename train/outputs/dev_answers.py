"""The best model's answers to a task's dev set beside the gold labels, as CSV: what judges a run, and compares two."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concord.bert.errors import InputError, shown
from concord.bert.files import read_data, replacing
from concord.train.data.delimited import csv_rows
from concord.train.data.tasks import Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.steps.evaluation import Answers

_HEADER = ["id", "gold", "predicted", "score", "error", "tokens"]
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class DevAnswers:
    """What `write_answers` wrote, each [examples] in the set's order.

    Attributes:
        ids: the examples' ids.
        gold: float64, labels.
        predicted: float64, answers.
        scores: float64, see `train.objectives.answers.answer_scores`.
        errors: float64, see `train.objectives.answers.task_errors`.
        tokens: int64, wordpieces of the example, special tokens included.
    """

    ids: list[str]
    gold: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    errors: np.ndarray
    tokens: np.ndarray


def write_answers(path: Path, split: TokenizedSplit, answers: Answers) -> None:
    """Write a row for each example of a dev set: id, gold, predicted, score, error, tokens. Numbers are written with
    all of their digits, so that metrics can be computed anew."""
    tokens = np.diff(split.cu_seqlens[:: split.sequences_per_example])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    columns = (split.labels.astype(np.float64), answers.predictions, answers.scores, answers.errors, tokens)
    writer.writerows(zip(split.example_ids, *(column.tolist() for column in columns), strict=True))
    with replacing(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


def read_answers(path: Path, task: Task) -> DevAnswers:
    """What `write_answers` wrote of a task; InputError where the file is missing, damaged, or of another task."""
    try:
        text = read_data(path, "answers to a dev set", _MOST_BYTES).decode("utf-8")
        rows = list(csv_rows(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not answers to a dev set ({error})") from None
    if not rows or rows[0] != _HEADER or len(rows) == 1:
        raise InputError(f"{path}: not answers to a dev set, expected the header {','.join(_HEADER)} and rows below it")
    found = [_numbers(path, number, row, task) for number, row in enumerate(rows[1:], 1)]
    gold, predicted, scores, errors, tokens = np.array(found, dtype=np.float64).T
    return DevAnswers([row[0] for row in rows[1:]], gold, predicted, scores, errors, tokens.astype(np.int64))


def _numbers(path: Path, number: int, row: list[str], task: Task) -> list[float]:
    """The numbers of a row; InputError where one is missing or not finite, or is no label or no answer of the task.
    Gold scores of a regression may lie beyond those of its training set, which its answers do not."""
    try:
        values = [float(cell) for cell in row[1:]]
    except ValueError:
        values = []
    if len(values) != len(_HEADER) - 1 or not all(map(math.isfinite, values)):
        raise InputError(f"{path}: row {number} is {shown(row)}, expected an id and five numbers")
    of_scores = task.kind == "regression"
    whole = of_scores or all(value == int(value) for value in values[:2])
    beyond = 1e-5 * (task.high - task.low)  # fp32 rounds what the bounds are given in
    within = all(task.low - beyond <= value <= task.high + beyond for value in values[of_scores:2])
    if not whole or not within or not 0 <= values[4] < 2**31:
        raise InputError(f"{path}: row {number} is {shown(row)}, expected labels of task {task.name}, and a length")
    return values
