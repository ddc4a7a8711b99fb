"""The losses of a task's logits: each the sum over the examples, and each a line in `concord.train.settings.tables`.

All take logits, fp32 [n, outputs], labels, fp32 [n], the task, and what the examples' losses are multiplied by, fp32
[n], or None for 1; and give a fp32 scalar. Those of one logit compare
it with the label as a share of the task's range: on the range 0 to 5 itself the gradients would be some twenty times
those of the other tasks, and clipping and AdamW's variances would leave these little to learn from.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from concord.train.data.tasks import Task


def shares_of_range(task: Task, labels: Tensor) -> Tensor:
    """Labels as shares of the task's range, in [0, 1]; a range from 0 on, or of width 1, needs the less for it."""
    above = labels - task.low if task.low else labels
    return above if task.high - task.low == 1 else above / (task.high - task.low)


def cross_entropy(logits: Tensor, labels: Tensor, task: Task, weights: Tensor | None = None) -> Tensor:
    """Over the classes, one logit each."""
    return _sum(functional.cross_entropy, logits, labels.long(), weights)


def binary_cross_entropy(logits: Tensor, labels: Tensor, task: Task, weights: Tensor | None = None) -> Tensor:
    """Of the sigmoid of one logit, to the label as a share of the range."""
    shares = shares_of_range(task, labels)
    return _sum(functional.binary_cross_entropy_with_logits, logits.squeeze(1), shares, weights)


def mse(logits: Tensor, labels: Tensor, task: Task, weights: Tensor | None = None) -> Tensor:
    """The squared error of one logit to the label as a share of the range."""
    return _sum(functional.mse_loss, logits.squeeze(1), shares_of_range(task, labels), weights)


def sigmoid_mse(logits: Tensor, labels: Tensor, task: Task, weights: Tensor | None = None) -> Tensor:
    """The squared error of the sigmoid of one logit to the label as a share of the range."""
    return _sum(functional.mse_loss, logits.squeeze(1).sigmoid(), shares_of_range(task, labels), weights)


def huber(logits: Tensor, labels: Tensor, task: Task, weights: Tensor | None = None) -> Tensor:
    """Huber's loss (1964) with delta 1 on the task's own range, divided by the range's square, which makes it of the
    size of mse: half of it for errors below 1 point."""
    scale, shares = task.high - task.low, shares_of_range(task, labels)
    return _sum(functional.huber_loss, scale * logits.squeeze(1), scale * shares, weights) / scale**2


def _sum(loss: Callable[..., Tensor], answers: Tensor, gold: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of a loss of torch's over the examples, each multiplied by its weight where there are weights."""
    if weights is None:
        return loss(answers, gold, reduction="sum")
    return (loss(answers, gold, reduction="none") * weights).sum()
