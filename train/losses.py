"""Losses and predictions of each kind of task, from its logits."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.tasks import Task


def task_loss(task: Task, logits: Tensor, labels: Tensor, examples: int) -> Tensor:
    """The task's loss, a fp32 scalar: the sum over these examples divided by `examples`.

    Cross-entropy for classification, binary cross-entropy for binary; for regression the mean squared error of scores
    as shares of the task's range. On the range 0 to 5 itself its gradients would be some twenty times those of the
    other tasks, and clipping and AdamW's variances would leave these little to learn from.

    logits: fp32 [n, task.classes]; labels: fp32 [n]; examples: of the whole step, which is more than n where
    micro-batches accumulate, so that their losses add up to the mean of one large batch.
    """
    if task.kind == "classification":
        total = functional.cross_entropy(logits, labels.long(), reduction="sum")
    elif task.kind == "binary":
        total = functional.binary_cross_entropy_with_logits(logits.squeeze(1), labels, reduction="sum")
    else:
        total = functional.mse_loss(logits.squeeze(1), (labels - task.low) / (task.high - task.low), reduction="sum")
    return total / examples


def task_predictions(task: Task, logits: Tensor) -> np.ndarray:
    """What the task answers, float64 [n]: a class index, 0 or 1, or a similarity within the task's range."""
    if task.kind == "classification":
        values = logits.argmax(1)
    elif task.kind == "binary":
        values = logits.squeeze(1) > 0
    else:
        values = task.low + (task.high - task.low) * logits.squeeze(1).clamp(0, 1)
    return values.to("cpu", torch.float64).numpy()
