"""What a score cannot show, or is not defined for, in a sentence: labels, or answers, that are all one."""

import numpy as np

from concord.train.data.tasks import Task


def weak_labels(task: Task, split: str, labels: np.ndarray) -> str:
    """Why the labels, fp32 [examples], of a task's split, train or dev, teach or show nothing; "" where they may."""
    if not len(labels) or np.ptp(labels) != 0:
        return ""
    found = f"{task.name} {split}: every label is {labels[0]:g}"
    if split == "train":
        return f"{found}, so that there is nothing to learn but to answer so"
    if task.kind == "regression":
        return f"{found}, so that correlations with it are undefined and count as 0"
    return f"{found}, so that whoever always answers so has the best score"


def weak_answers(task: Task, predictions: np.ndarray, errors: np.ndarray) -> str:
    """Why a model's predictions on a dev set, whose `errors` are known, both float64 [examples], have no score that
    means anything; "" where they may have one."""
    if not np.isfinite(errors).all():
        return f"{task.name}: the model's answers to the dev set are not finite, so that it has no score"
    if task.kind == "regression" and len(predictions) and np.ptp(predictions) == 0:
        found = f"{task.name}: the model answers {predictions[0]:.4g} to every dev example"
        return f"{found}, so that correlations are undefined and count as 0"
    return ""
