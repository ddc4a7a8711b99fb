"""Losses by name, of a task's logits and of pairs' embeddings: which fit a task, and what each is over a step."""

from collections.abc import Sequence

from torch import Tensor

from concord.bert.heads import Link
from concord.bert.tables import is_own
from concord.kernels.dropout import DropoutStream
from concord.train.data.tasks import Task
from concord.train.objectives.answers import LINKS
from concord.train.objectives.own import own_loss
from concord.train.objectives.pairs import Pairs
from concord.train.settings.tables import LOSSES, PAIR_LOSSES


def is_of_pairs(loss: str) -> bool:
    """Whether a loss is one of pairs' embeddings; any other is one of logits, or none at all."""
    return own_loss(loss).of_pairs if is_own(loss) else loss in PAIR_LOSSES.names


def auto_loss(task: Task) -> str:
    """The loss that "auto" stands for."""
    return next(entry.name for entry in LOSSES if entry.auto_of == task.kind)


def fitting_losses(task: Task, links: Sequence[Link]) -> list[str]:
    """The losses of logits with one of `links`, all or some of those that fit the task's kind; the first is what "auto"
    stands for there."""
    names = [entry.name for entry in LOSSES if entry.link in links]
    return sorted(names, key=lambda name: name != auto_loss(task))


def link_of(task: Task, loss: str) -> Link:
    """What makes answers of the logits that `loss` trains; InputError for a loss that there is not."""
    link = own_loss(loss).link if is_own(loss) else LOSSES.entry(loss).link
    return link or LINKS[task.kind][0]


def is_squared_error(loss: str) -> bool:
    """Whether a loss stands for a Gaussian's likelihood; InputError for a loss that there is not."""
    return own_loss(loss).squared_error if is_own(loss) else LOSSES.entry(loss).squared_error


def task_loss(
    task: Task,
    logits: Tensor,
    labels: Tensor,
    examples: int,
    loss: str = "auto",
    class_weights: Tensor | None = None,
) -> Tensor:
    """The task's loss, a fp32 scalar: the sum over these examples divided by `examples`.

    logits: fp32 [n, outputs]; labels: fp32 [n]; examples: of the whole step, which is more than n where
    micro-batches accumulate, so that their losses add up to the mean of one large batch; loss: its name, or auto. One
    of the user's own is a mean over n, and counts by its share of the examples; class_weights: fp32 [classes] by which
    the examples' losses are multiplied, None for 1, as with a loss of the user's own. InputError for a loss that there
    is not.
    """
    if is_own(loss):
        return own_loss(loss)(logits, labels, task) * (len(labels) / examples)
    name = auto_loss(task) if loss == "auto" else loss
    if class_weights is None:
        return LOSSES.resolve(name)(logits, labels, task) / examples
    return LOSSES.resolve(name)(logits, labels, task, class_weights[labels.long()]) / examples


def embedding_loss(
    name: str, embeddings: Tensor, shares: Tensor, *, margin: float, epoch: Tensor, dropouts: DropoutStream
) -> Tensor:
    """The loss `name` over a micro-batch's pairs, fp32 scalar; InputError for a loss of pairs that there is not.

    embeddings: fp32 [2 * n, hidden], the two of each pair one after the other; for the rest see `Pairs`.
    """
    pairs = Pairs(
        first=embeddings[0::2], second=embeddings[1::2], shares=shares, margin=margin, epoch=epoch, dropouts=dropouts
    )
    return own_loss(name)(pairs) if is_own(name) else PAIR_LOSSES.resolve(name)(pairs)
