"""The best model's answers to a task's dev set beside the gold labels, as CSV: what judges a run, and compares two."""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concord.bert.errors import InputError, shown
from concord.bert.files import read_data, replacing
from concord.train.data.delimited import csv_rows
from concord.train.data.tasks import Example, Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.steps.evaluation import Answers

_HEADER = ["id", "gold", "predicted", "score", "error", "tokens", "texts"]
_OF_BEFORE = _HEADER[:-1]  # of files of earlier versions
_MOST_BYTES = 1 << 28
_DIGITS = 16  # of a digest of texts, in hex


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
        texts: the same for the same texts, by which examples of several runs are paired; () of a run of before they
            were kept.
    """

    ids: list[str]
    gold: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    errors: np.ndarray
    tokens: np.ndarray
    texts: Sequence[str] = ()


def write_answers(path: Path, split: TokenizedSplit, answers: Answers, examples: Sequence[Example]) -> None:
    """Write a row for each example of a dev set: id, gold, predicted, score, error, tokens, and a short digest of its
    texts. Numbers are written with all of their digits, so that metrics can be computed anew."""
    tokens = np.diff(split.cu_seqlens[:: split.sequences_per_example])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    columns = (split.labels.astype(np.float64), answers.predictions, answers.scores, answers.errors, tokens)
    texts = map(_digest, examples)
    writer.writerows(zip(split.example_ids, *(column.tolist() for column in columns), texts, strict=True))
    with replacing(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


def _digest(example: Example) -> str:
    texts = json.dumps([example.first, example.second]).encode()
    return hashlib.sha256(texts).hexdigest()[:_DIGITS]


def read_answers(path: Path, task: Task) -> DevAnswers:
    """What `write_answers` wrote of a task; InputError where the file is missing, damaged, or of another task."""
    try:
        text = read_data(path, "answers to a dev set", _MOST_BYTES).decode("utf-8")
        rows = list(csv_rows(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not answers to a dev set ({error})") from None
    if len(rows) < 2 or rows[0] not in (_HEADER, _OF_BEFORE):
        raise InputError(f"{path}: not answers to a dev set, expected the header {','.join(_HEADER)} and rows below it")
    kept = rows[0] == _HEADER
    found = [_numbers(path, number, row, task, kept) for number, row in enumerate(rows[1:], 1)]
    gold, predicted, scores, errors, tokens = np.array(found, dtype=np.float64).T
    ids, texts = [row[0] for row in rows[1:]], [row[-1] for row in rows[1:]] if kept else ()
    return DevAnswers(ids, gold, predicted, scores, errors, tokens.astype(np.int64), texts)


def _numbers(path: Path, number: int, row: list[str], task: Task, kept: bool) -> list[float]:
    """The numbers of a row, behind which its texts' digest is `kept`, or not; InputError where one is missing or not
    finite, or is no label or no answer of the task, or that is no digest.
    Gold scores of a regression may lie beyond those of its training set, which its answers do not."""
    try:
        values = [float(cell) for cell in row[1 : len(_OF_BEFORE)]]
    except ValueError:
        values = []
    rest = row[len(_OF_BEFORE) :]
    whole_rest = len(rest) == kept and all(re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", cell) for cell in rest)
    if len(values) != len(_OF_BEFORE) - 1 or not all(map(math.isfinite, values)) or not whole_rest:
        digest = f", and {_DIGITS} digits of texts" if kept else ""
        raise InputError(f"{path}: row {number} is {shown(row)}, expected an id and five numbers{digest}")
    of_scores = task.kind == "regression"
    whole = of_scores or all(value == int(value) for value in values[:2])
    beyond = 1e-5 * (task.high - task.low)  # fp32 rounds what the bounds are given in
    within = all(task.low - beyond <= value <= task.high + beyond for value in values[of_scores:2])
    if not whole or not within or not 0 <= values[4] < 2**31:
        raise InputError(f"{path}: row {number} is {shown(row)}, expected labels of task {task.name}, and a length")
    return values
