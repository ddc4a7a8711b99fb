"""Metrics of predictions: accuracy, F1, Pearson and Spearman correlation, in float64.

Each is (predictions, labels) -> float and a line in `concord.train.settings.tables`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from concord.train.data.tasks import Task
from concord.train.settings.tables import METRICS


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions [n] that equal their labels [n]."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The harmonic mean of precision and recall of the class 1; 0 where neither has any."""
    hits = np.sum((predictions == 1) & (labels == 1))
    named = np.sum(predictions == 1) + np.sum(labels == 1)
    return float(2 * hits / named) if named else 0.0


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold that gives `scores > threshold` its highest accuracy: 0.5 if it does, else the nearest one to it.

    scores: [n], at least one, which fp32 holds; labels: 0 or 1, [n]. The threshold is one of fp32: 0.5, halfway between
    two neighbouring scores, right below the first or at the last.
    """
    order = np.argsort(scores, kind="stable")
    values, ones = scores[order].astype(np.float32), labels[order] == 1
    # right[k]: how many answers are right if the k lowest scores mean 0 and the others 1. There is no threshold between
    # equal scores.
    right = np.concatenate([[0], np.cumsum(~ones)]) + np.concatenate([np.cumsum(ones[::-1])[::-1], [0]])
    below, above = values[:-1], values[1:]
    right[1:-1][below == above] = -1
    if right[np.searchsorted(values, np.float32(0.5), side="right")] == right.max():
        return 0.5
    middles = below + (above - below) / 2
    middles = np.where(middles < above, middles, below)  # rounding must not raise it to the score above
    cuts = np.concatenate([[np.nextafter(values[0], np.float32(-np.inf))], middles, values[-1:]])
    best = cuts[right == right.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation; 0 where either is constant."""
    # Checked on the values, since a constant's differences from its rounded mean need not be exactly 0.
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    x = predictions.astype(np.float64) - np.mean(predictions, dtype=np.float64)
    y = labels.astype(np.float64) - np.mean(labels, dtype=np.float64)
    return float(np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y)))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's correlation: Pearson's over ranks, equal values sharing their average rank."""
    return pearson(_ranks(predictions), _ranks(labels))


def task_metrics(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of the task's kind: accuracy; accuracy and f1 (binary); pearson and spearman (regression).

    predictions, labels: [examples], at least one, without NaN. Constant predictions have no correlation: it is 0 then.
    """
    return {name: METRICS.resolve(name)(predictions, labels) for name in _metrics_of(task)}


def main_metric(task: Task) -> str:
    """The metric that a task is judged by."""
    return _metrics_of(task)[0]


def course_score(scores: Mapping[str, float]) -> float | None:
    """The course's overall score of main metrics, (sst + paraphrase + (sts + 1) / 2) / 3; None if one is not there."""
    if not scores.keys() >= {"sst", "paraphrase", "sts"}:
        return None
    return (scores["sst"] + scores["paraphrase"] + (scores["sts"] + 1) / 2) / 3


def overall(metrics: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]) -> tuple[float | None, float]:
    """The course's overall score, and the plain mean of the main metrics."""
    scores = {task.name: metrics[task.name][main_metric(task)] for task in tasks}
    return course_score(scores), sum(scores.values()) / len(scores)


def _metrics_of(task: Task) -> list[str]:
    """The names of the metrics of the task's kind, the main one first."""
    names = [entry.name for entry in METRICS if task.kind in entry.kinds]
    if not names:
        raise ValueError(f"task {task.name}: no metric is of kind {task.kind!r}")
    return names


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
