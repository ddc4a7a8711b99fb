"""Losses and predictions of each kind of task, from its logits."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.tasks import Task


def task_loss(task: Task, logits: Tensor, labels: Tensor, examples: int) -> Tensor:
    """The task's loss, a fp32 scalar: the sum over these examples divided by `examples`.

    Cross-entropy for classification, binary cross-entropy for binary, mean squared error for regression.

    logits: fp32 [n, task.classes]; labels: fp32 [n]; examples: of the whole step, which is more than n where
    micro-batches accumulate, so that their losses add up to the mean of one large batch.
    """
    if task.kind == "classification":
        total = functional.cross_entropy(logits, labels.long(), reduction="sum")
    elif task.kind == "binary":
        total = functional.binary_cross_entropy_with_logits(logits.squeeze(1), labels, reduction="sum")
    else:
        total = functional.mse_loss(logits.squeeze(1), labels, reduction="sum")
    return total / examples


def task_predictions(task: Task, logits: Tensor) -> np.ndarray:
    """What the task answers, float64 [n]: a class index, 0 or 1, or a similarity within the task's range."""
    if task.kind == "classification":
        values = logits.argmax(1)
    elif task.kind == "binary":
        values = logits.squeeze(1) > 0
    else:
        values = logits.squeeze(1).clamp(task.low, task.high)
    return values.to("cpu", torch.float64).numpy()
