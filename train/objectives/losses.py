"""Losses and predictions of each kind of task, from its logits."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from concord.bert.heads import Link
from concord.train.data.tasks import Task

# The losses that fit each kind of task; the first is what "auto" stands for.
LOSSES_OF = {
    "classification": ("cross-entropy",),
    "binary": ("binary-cross-entropy", "cross-entropy", "mse", "sigmoid-mse", "huber"),
    "regression": ("mse", "sigmoid-mse", "huber", "binary-cross-entropy"),
}
SQUARED_ERRORS = ("mse", "sigmoid-mse", "huber")
_LINKS: dict[str, Link] = {
    "cross-entropy": "softmax",
    "binary-cross-entropy": "sigmoid",
    "sigmoid-mse": "sigmoid",
    "mse": "identity",
    "huber": "identity",
}


def link_of(loss: str) -> Link:
    """What makes answers of the logits that `loss` trains."""
    return _LINKS[loss]


def outputs_of(task: Task, loss: str) -> int:
    """How many logits `loss` takes: two for the cross-entropy of a binary task, else as many as the task has."""
    return 2 if task.kind == "binary" and loss == "cross-entropy" else task.classes


def shares_of_range(task: Task, labels: Tensor) -> Tensor:
    """Labels as shares of the task's range, in [0, 1]."""
    return (labels - task.low) / (task.high - task.low)


def task_loss(task: Task, logits: Tensor, labels: Tensor, examples: int, loss: str = "auto") -> Tensor:
    """The task's loss, a fp32 scalar: the sum over these examples divided by `examples`.

    cross-entropy: over the classes. binary-cross-entropy: of the sigmoid of one logit, to the label as a share of the
    range. mse, sigmoid-mse: the squared error of the logit, or of its sigmoid, to the label as a share of the range;
    on the range 0 to 5 itself its gradients would be some twenty times those of the other tasks, and clipping and
    AdamW's variances would leave these little to learn from. huber: Huber's loss (1964) with delta 1 on the task's own
    range, divided by the range's square, which makes it of the size of mse: half of it for errors below 1 point.

    logits: fp32 [n, outputs]; labels: fp32 [n]; examples: of the whole step, which is more than n where
    micro-batches accumulate, so that their losses add up to the mean of one large batch; loss: its name, or auto.
    """
    loss = LOSSES_OF[task.kind][0] if loss == "auto" else loss
    if loss == "cross-entropy":
        return functional.cross_entropy(logits, labels.long(), reduction="sum") / examples
    values, shares = logits.squeeze(1), shares_of_range(task, labels)
    if loss == "binary-cross-entropy":
        total = functional.binary_cross_entropy_with_logits(values, shares, reduction="sum")
    elif loss == "mse":
        total = functional.mse_loss(values, shares, reduction="sum")
    elif loss == "sigmoid-mse":
        total = functional.mse_loss(values.sigmoid(), shares, reduction="sum")
    else:
        scale = task.high - task.low
        total = functional.huber_loss(scale * values, scale * shares, reduction="sum") / scale**2
    return total / examples


def answers_as_shares(logits: Tensor, link: Link) -> Tensor:
    """The share of the range that one logit stands for: logits [n, 1] -> [n]."""
    return logits.squeeze(1).sigmoid() if link == "sigmoid" else logits.squeeze(1)


def binary_scores(logits: Tensor, link: Link) -> np.ndarray:
    """How much speaks for the answer 1 of a binary task, as a share of its range: float32 [n]."""
    scores = logits.softmax(1)[:, 1] if link == "softmax" else answers_as_shares(logits, link)
    return scores.to("cpu", torch.float32).numpy()


def task_predictions(task: Task, logits: Tensor, link: Link | None = None) -> np.ndarray:
    """What the task answers, float64 [n]: a class index, 0 or 1, or a similarity within the task's range.

    link: what makes answers of the logits; None for what the task's loss "auto" trains.
    """
    link = link or link_of(LOSSES_OF[task.kind][0])
    if link == "softmax":
        values = logits.argmax(1)
    elif task.kind == "binary":
        values = logits.squeeze(1) > (0 if link == "sigmoid" else 0.5)
    else:
        values = task.low + (task.high - task.low) * answers_as_shares(logits, link).clamp(0, 1)
    return values.to("cpu", torch.float64).numpy()


def task_errors(task: Task, logits: Tensor, labels: np.ndarray, link: Link | None = None) -> np.ndarray:
    """How wrong each answer is, float64 [n] in [0, 1]: one minus the probability of the gold label, or the distance of
    a score from the gold one as a share of the range.

    labels: [n]; link: as for `task_predictions`.
    """
    link = link or link_of(LOSSES_OF[task.kind][0])
    gold = torch.from_numpy(labels).to(logits.device)
    if link == "softmax":
        errors = 1 - logits.softmax(1).gather(1, gold.long()[:, None]).squeeze(1)
    else:
        shares = answers_as_shares(logits, link).clamp(0, 1)
        errors = (shares - shares_of_range(task, gold)).abs()
    return errors.to("cpu", torch.float64).numpy()
