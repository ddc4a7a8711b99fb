"""Metrics of predictions, in float64, and which of them a task has and is judged by.

Each is (predictions, labels) -> float, or None where it is undefined, and a line in `concord.train.settings.tables`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np

from concord.bert.errors import InputError
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


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The plain mean of the F1 of each class that any label or prediction is; scikit-learn's.

    predictions, labels: class indices, [examples].
    """
    return float(_library().f1_score(labels.astype(np.int64), predictions.astype(np.int64), average="macro"))


def mcc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation coefficient (Gorodkin's, 2004, of several classes); scikit-learn's. 0 where predictions or
    labels are all one."""
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(_library().matthews_corrcoef(labels.astype(np.int64), predictions.astype(np.int64)))


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """The area under the ROC curve: the chance that an example of label 1 has a higher score than one of label 0, where
    equal scores count half; scikit-learn's. None where the labels are all one.

    scores: finite, [examples]; labels: 0 or 1, [examples].
    """
    if np.ptp(labels) == 0:
        return None
    return float(_library().roc_auc_score(labels.astype(np.int64), scores))


def _library() -> ModuleType:
    return import_module("sklearn.metrics")


def check_metrics(tasks: Sequence[Task]) -> None:
    """InputError where a task has a metric of scikit-learn's, which is not installed."""
    for task in tasks:
        for name in metric_names(task):
            if not METRICS.entry(name).library:
                continue
            try:
                _library()
            except ImportError as error:
                reason = " ".join(str(error).split())
                raise InputError(f"--metric {task.name}={name}: needs pip install -e '.[metrics]' ({reason})") from None


def task_metrics(
    task: Task, predictions: np.ndarray, labels: np.ndarray, scores: np.ndarray | None = None
) -> dict[str, float | None]:
    """The task's metrics, by name, the one that it is judged by first; None where one is undefined.

    predictions, labels: [examples], at least one, without NaN. Constant predictions have no correlation: it is 0 then.
    scores: how much speaks for the answer 1, [examples], where a metric takes them; see `answer_scores`.
    """
    return {
        name: METRICS.resolve(name)(scores if METRICS.entry(name).of_scores else predictions, labels)
        for name in metric_names(task)
    }


def main_metric(task: Task) -> str:
    """The metric that a task is judged by."""
    return metric_names(task)[0]


def main_scores(metrics: Mapping[str, Mapping[str, float | None]], tasks: Sequence[Task]) -> dict[str, float]:
    """Each task's main metric, where it is undefined 0."""
    found = {task.name: metrics[task.name][main_metric(task)] for task in tasks}
    return {name: 0.0 if value is None else value for name, value in found.items()}


def check_best_metric(best_metric: tuple[str, str] | None, tasks: Sequence[Task]) -> None:
    """InputError where the task that the best model is to be chosen by has no such metric."""
    for task in tasks:
        if best_metric and best_metric[0] == task.name and best_metric[1] not in metric_names(task):
            flag = f"--best-metric {'.'.join(best_metric)}"
            fitting = ", ".join(entry.name for entry in METRICS if task.kind in entry.kinds)
            if best_metric[1] in fitting.split(", "):
                raise InputError(f"{flag}: not computed; add --metric {task.name}={best_metric[1]}")
            raise InputError(f"{flag}: {task.name} ({task.kind}) can have {fitting}")


def course_score(scores: Mapping[str, float]) -> float | None:
    """The course's overall score of main metrics, (sst + paraphrase + (sts + 1) / 2) / 3; None if one is not there."""
    if not scores.keys() >= {"sst", "paraphrase", "sts"}:
        return None
    return (scores["sst"] + scores["paraphrase"] + (scores["sts"] + 1) / 2) / 3


def overall(metrics: Mapping[str, Mapping[str, float | None]], tasks: Sequence[Task]) -> tuple[float | None, float]:
    """The course's overall score, of the metrics that its tasks have unasked, and the plain mean of the main metrics,
    where an undefined one counts as 0."""
    own = {task.name: metrics[task.name][_unasked(task)[0]] for task in tasks}
    scores = main_scores(metrics, tasks)
    return course_score(own), sum(scores.values()) / len(scores)


def metric_names(task: Task) -> list[str]:
    """The names of the task's metrics: the one that is chosen for it first, then those that its kind has unasked."""
    return list(dict.fromkeys([*([task.metric] if task.metric else []), *_unasked(task)]))


def _unasked(task: Task) -> list[str]:
    names = [entry.name for entry in METRICS if task.kind in entry.unasked]
    if not names:
        raise ValueError(f"task {task.name}: no metric is of kind {task.kind!r}")
    return names


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
