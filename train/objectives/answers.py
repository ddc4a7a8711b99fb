"""What logits answer: predictions, scores and errors of each kind of task, by the link that its loss trained."""

import numpy as np
import torch
from torch import Tensor

from concord.bert.heads import Link
from concord.train.data.tasks import Task
from concord.train.objectives.logit_losses import shares_of_range

# The links that fit each kind of task; the first is taken for losses without a link of their own, and for "auto".
LINKS: dict[str, tuple[Link, ...]] = {
    "classification": ("softmax",),
    "binary": ("sigmoid", "softmax", "identity"),
    "regression": ("identity", "sigmoid"),
}


def outputs_of(task: Task, link: Link) -> int:
    """How many logits a task has: one a class, two for the softmax of a binary task, else one."""
    return 2 if task.kind == "binary" and link == "softmax" else task.classes


def answers_as_shares(logits: Tensor, link: Link) -> Tensor:
    """The share of the range that one logit stands for: logits [n, 1] -> [n]."""
    if link == "sigmoid":
        return logits.squeeze(1).sigmoid()
    if link == "identity":
        return logits.squeeze(1)
    raise _unknown(link)


def binary_scores(logits: Tensor, link: Link) -> np.ndarray:
    """How much speaks for the answer 1 of a binary task, as a share of its range: float32 [n]."""
    scores = logits.softmax(1)[:, 1] if link == "softmax" else answers_as_shares(logits, link)
    return scores.to("cpu", torch.float32).numpy()


def label_names(task: Task) -> tuple[str, ...] | tuple[int, ...]:
    """What a task's labels are called in the data, in the order of their scores, or else their numbers; () of a
    regression."""
    return task.labels or tuple(range(len(task.label_names)))


def label_scores(task: Task, logits: Tensor, link: Link) -> np.ndarray:
    """What speaks for each label of a task, float32 [n, labels], or of a regression its answer, float32 [n, 1].

    A row of a classification or a binary task adds up to 1: shares by the softmax, or of two labels 1 - s and s, where
    s is the share of the range that the one logit stands for. ValueError for a link that does not fit the task.
    """
    _check(task, link)
    if task.kind == "regression":
        return task_predictions(task, logits, link)[:, None].astype(np.float32)
    if link == "softmax":
        return logits.softmax(1).to("cpu", torch.float32).numpy()
    shares = answers_as_shares(logits, link).clamp(0, 1).to("cpu", torch.float32).numpy()
    return np.stack([1 - shares, shares], axis=1)


def task_predictions(task: Task, logits: Tensor, link: Link | None = None) -> np.ndarray:
    """What the task answers, float64 [n]: a class index, 0 or 1, or a similarity within the task's range.

    link: what makes answers of the logits; None for what the task's loss "auto" trains. ValueError for one that does
    not fit the task.
    """
    link = link or LINKS[task.kind][0]
    _check(task, link)
    if link == "softmax":
        values = logits.argmax(1)
    elif task.kind == "binary":
        # The logit at which the share of the range is a half.
        values = logits.squeeze(1) > {"sigmoid": 0.0, "identity": 0.5}[link]
    elif task.kind == "regression":
        values = task.low + (task.high - task.low) * answers_as_shares(logits, link).clamp(0, 1)
    return values.to("cpu", torch.float64).numpy()


def task_errors(task: Task, logits: Tensor, labels: np.ndarray, link: Link | None = None) -> np.ndarray:
    """How wrong each answer is, float64 [n] in [0, 1]: one minus the probability of the gold label, or the distance of
    a score from the gold one as a share of the range.

    labels: [n]; link: as for `task_predictions`.
    """
    link = link or LINKS[task.kind][0]
    _check(task, link)
    gold = torch.from_numpy(labels).to(logits.device)
    if link == "softmax":
        errors = 1 - logits.softmax(1).gather(1, gold.long()[:, None]).squeeze(1)
    else:
        shares = answers_as_shares(logits, link).clamp(0, 1)
        errors = (shares - shares_of_range(task, gold)).abs()
    return errors.to("cpu", torch.float64).numpy()


def answer_scores(task: Task, logits: Tensor, link: Link | None = None) -> np.ndarray:
    """What speaks for the answers, float64 [n]: the probability of the class that is answered; of a binary task how
    much speaks for the answer 1 (see `binary_scores`); of a regression the score itself.

    link: as for `task_predictions`.
    """
    link = link or LINKS[task.kind][0]
    _check(task, link)
    if task.kind == "regression":
        return task_predictions(task, logits, link)
    if task.kind == "binary":
        return binary_scores(logits, link).astype(np.float64)
    return logits.softmax(1).amax(1).to("cpu", torch.float64).numpy()


def _check(task: Task, link: Link) -> None:
    if link not in LINKS[task.kind]:
        raise ValueError(f"link {link!r}: {task.name} ({task.kind}) takes {', '.join(LINKS[task.kind])}")


def _unknown(link: str) -> ValueError:
    return ValueError(f"link {link!r}: expected sigmoid or identity, of one logit")
