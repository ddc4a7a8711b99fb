"""Class weights: what the losses of a task's examples are multiplied by, from their labels."""

import numpy as np
import torch
from torch import Tensor

from concord.train.data.tasks import Task
from concord.train.settings.task_choices import BALANCED


def class_weights(task: Task, labels: np.ndarray) -> Tensor | None:
    """What the loss of an example of each class is multiplied by: fp32 [classes] on the CPU, None for 1.

    labels: of the training set, [examples], class indices. `BALANCED` are n / (k n_c), of n examples of k classes, n_c
    of them in class c (King and Zeng, 2001): the classes weigh the same in all, and the mean over the examples is 1. A
    class without examples, which no loss is multiplied by the weight of, has 0.
    """
    if task.class_weights is None:
        return None
    if task.class_weights == BALANCED:
        counts = np.bincount(labels.astype(np.int64), minlength=len(task.label_names))
        balanced = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.from_numpy(np.where(counts > 0, balanced, 0.0)).float()
    return torch.tensor([task.class_weights.get(name, 1.0) for name in task.label_names])


def describe_class_weights(task: Task, weights: Tensor) -> str:
    """The weights of the classes on one line, of the first ones where there are many."""
    found = [f"{name} {weight:.3g}" for name, weight in zip(task.label_names, weights.tolist(), strict=True)]
    more = f", and {len(found) - 10} more" if len(found) > 10 else ""
    return f"{task.name} {', '.join(found[:10])}{more}"
