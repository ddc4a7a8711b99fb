"""What a score cannot show, or is not defined for, in a sentence: labels, or answers, that are all one."""

from collections.abc import Sequence

import numpy as np

from concord.bert.errors import one_line
from concord.train.data.tasks import Task
from concord.train.objectives.metrics import metric_names
from concord.train.settings.tables import METRICS


def weak_labels(task: Task, split: str, labels: np.ndarray) -> str:
    """Why the labels, fp32 [examples], of a task's split, train or dev, teach or show nothing; "" where they may."""
    if not len(labels) or np.ptp(labels) != 0:
        return ""
    found = f"{task.name} {split}: every label is {_named(task, labels[0])}"
    if split == "train":
        return f"{found}, so that there is nothing to learn but to answer so"
    if task.kind == "regression":
        return f"{found}, so that correlations with it are undefined and count as 0"
    undefined = _undefined(task, ("labels", "labels and predictions"))
    undefined = f", and {undefined}" if undefined else ""
    return f"{found}, so that whoever always answers so has the best score{undefined}"


def weak_answers(task: Task, predictions: np.ndarray, errors: np.ndarray) -> str:
    """Why a model's predictions on a dev set, whose `errors` are known, both float64 [examples], have no score that
    means anything; "" where they may have one."""
    if not np.isfinite(errors).all():
        return f"{task.name}: the model's answers to the dev set are not finite, so that it has no score"
    if not len(predictions) or np.ptp(predictions) != 0:
        return ""
    found = f"{task.name}: the model answers {_named(task, predictions[0])} to every dev example"
    if task.kind == "regression":
        return f"{found}, so that correlations are undefined and count as 0"
    undefined = _undefined(task, ("labels and predictions",))
    return f"{found}, so that {undefined}" if undefined else ""


def _named(task: Task, value: float) -> str:
    """A label or an answer as the data spell it."""
    return f"{value:.4g}" if task.kind == "regression" else one_line(task.label_names[int(value)], 40)


def _undefined(task: Task, where: Sequence[str]) -> str:
    """Which metrics of the task are undefined there, "" for none."""
    names = [name for name in metric_names(task) if METRICS.entry(name).undefined in where]
    if not names:
        return ""
    be, count = ("is", "counts") if len(names) == 1 else ("are", "count")
    return f"{' and '.join(names)} {be} undefined and {count} as 0"
