"""Each task's objective: its losses and their weight, built from the configuration and checked against the task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.heads import HeadSpec
from concord.bert.multitask import TaskOutput
from concord.bert.tables import is_own
from concord.kernels.dropout import DropoutStream
from concord.train.data.tasks import Task
from concord.train.objectives.answers import LINKS, outputs_of
from concord.train.objectives.logit_losses import shares_of_range
from concord.train.objectives.losses import (
    embedding_loss,
    fitting_losses,
    is_of_pairs,
    is_squared_error,
    link_of,
    task_loss,
)
from concord.train.objectives.own import own_head, try_loss, try_pair_loss
from concord.train.ranks.gathering import Whole
from concord.train.settings.parts import ObjectiveConfig
from concord.train.settings.tables import HEADS
from concord.train.settings.values import INVERSE_SHARE, UNCERTAINTY, PerTask

_OF_COSINES = ("identity",)  # the links that fit heads whose logit is a cosine


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised for one task.

    Attributes:
        task: whose objective it is.
        main: the loss of its logits, or None.
        added: the losses of its embeddings.
        weight: of their sum, where it is not learned.
        smoothness: weight of SMART's regulariser beside the losses, 0 for none.
        margin: of the cosine-embedding loss.
        class_weights: fp32 [classes] by which the examples' losses of the logits are multiplied, None for 1.
    """

    task: Task
    main: str | None
    added: tuple[str, ...]
    weight: float
    smoothness: float
    margin: float
    class_weights: Tensor | None = None

    @property
    def compares(self) -> bool:
        """Whether a loss is no sum over the examples, or may be none, as one of the user's own: it needs all of a
        micro-batch's, wherever they are."""
        return bool(self.added) or self._is_own

    @property
    def _is_own(self) -> bool:
        return self.main is not None and is_own(self.main)

    def gather(self, output: TaskOutput | None, whole: Whole, width: int) -> TaskOutput:
        """The outputs that the losses compare, of all ranks in the place of this one's; called on all ranks.

        output: None where this rank has no example; width: of the embeddings.
        """
        if output is None:
            logits = outputs_of(self.task, link_of(self.task, self.main)) if self.main else 0
            none = whole.labels.new_zeros(0, 1)
            output = TaskOutput(none.expand(0, logits), none.expand(0, width))
        return TaskOutput(
            whole.gather(output.logits, 1) if self._is_own else output.logits,
            whole.gather(output.embeddings, whole.per_example) if self.added else output.embeddings,
        )

    def loss(
        self,
        output: TaskOutput,
        labels: Tensor,
        examples: int,
        *,
        epoch: Tensor,
        dropouts: DropoutStream,
        log_variance: Tensor | None,
        whole: Whole | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Of a micro-batch: what is to be minimised, and the unweighted loss, to be logged; fp32 scalars.

        Over the micro-batches of a step both add up to the step's: the main loss to the mean over its examples, the
        others to the mean over its micro-batches by their share of the examples.

        labels: fp32 [n]; examples: of the task in the whole step; epoch: fp32 scalar, from 0; dropouts: where random
        numbers come from; log_variance: s = log sigma^2, fp32 [1], where the weight is learned (Kendall et al., 2018).
        What is minimised then is loss / (2 sigma^2) + log sigma for squared errors, which stand for a Gaussian's
        likelihood, and loss / sigma^2 + log sigma for all others; log sigma counts once a step.

        whole: where the micro-batch is divided among ranks, whose losses add up to its own; `output` then is that of
        `gather`, and `labels` are this rank's.
        """
        share = len(labels) / examples
        parts = []
        if self.main:
            own = whole if self._is_own else None
            known = labels if own is None else own.labels
            part = task_loss(self.task, output.logits, known, examples, self.main, self.class_weights)
            parts.append(part if own is None else own.count(part))
        compared = labels if whole is None else whole.labels
        for name in self.added:
            shares = shares_of_range(self.task, compared)
            part = embedding_loss(name, output.embeddings, shares, margin=self.margin, epoch=epoch, dropouts=dropouts)
            part = part * (len(compared) / examples)
            parts.append(part if whole is None else whole.count(part))
        total = sum(parts[1:], parts[0])
        if log_variance is None:
            return (total if self.weight == 1 else self.weight * total), total
        precision = (0.5 if self.main and is_squared_error(self.main) else 1.0) * (-log_variance[0]).exp()
        return precision * total + 0.5 * share * log_variance[0], total


def build_objectives(
    config: ObjectiveConfig,
    pair_encoding: PerTask[str],
    tasks: Sequence[Task],
    sizes: Mapping[str, int],
    class_weights: Mapping[str, Tensor | None] = MappingProxyType({}),
) -> dict[str, Objective]:
    """Task -> its objective, in the order of `tasks`.

    pair_encoding: joint or separate; sizes: examples of each training set; class_weights: fp32 [classes] on the run's
    device, of those tasks that have them. The weight "inverse-share" of task t is
    (N / T) / N_t, of N examples in T tasks, divided by the mean of these numbers.

    Raises InputError, in one line, where the configuration asks for what does not fit the task or contradicts itself.
    """
    mean = sum(1 / sizes[task.name] for task in tasks) / len(tasks)
    found = {}
    for task in tasks:
        main, added = _losses(config, task, _separate(pair_encoding, task))
        weights = {INVERSE_SHARE: 1 / sizes[task.name] / mean, UNCERTAINTY: 1.0}
        weight = config.loss_weights[task.name]
        found[task.name] = Objective(
            task=task,
            main=main,
            added=added,
            weight=weights[weight] if isinstance(weight, str) else weight,
            smoothness=config.smart[task.name],
            margin=config.margin,
            class_weights=class_weights.get(task.name),
        )
    return found


def head_specs(
    config: ObjectiveConfig, pair_encoding: PerTask[str], tasks: Sequence[Task], hidden_size: int
) -> dict[str, HeadSpec]:
    """Task -> the head that its losses ask for, in the order of `tasks`; InputError as `build_objectives`.

    pair_encoding: joint or separate; hidden_size: of the encoder.
    """
    return {task.name: _head_spec(config, task, _separate(pair_encoding, task), hidden_size) for task in tasks}


def _head_spec(config: ObjectiveConfig, task: Task, separate: bool, hidden_size: int) -> HeadSpec:
    head = config.heads[task.name]
    main, _ = _losses(config, task, separate)
    link = link_of(task, main) if main else "identity"
    return HeadSpec(
        build=own_head(head) if is_own(head) else HEADS.resolve(head),
        hidden_size=hidden_size,
        outputs=outputs_of(task, link),
        pair=separate,
        pair_features=config.pair_features,
        dropout=config.head_dropout,
        link=link,
        centre=0.5 if link == "identity" else 0.0,
        learns_variance=config.loss_weights[task.name] == UNCERTAINTY,
        has_threshold=task.kind == "binary" and config.chooses_thresholds,
    )


def _losses(config: ObjectiveConfig, task: Task, separate: bool) -> tuple[str | None, tuple[str, ...]]:
    """The loss of the task's logits, or None, and those of its embeddings; InputError where they do not fit.

    separate: whether the task's pairs are encoded as two sequences.
    """
    head, names = config.heads[task.name], config.losses[task.name]
    compared = separate and task.kind != "classification"
    links = LINKS[task.kind]
    if HEADS.entry(head).compares:
        links = _OF_COSINES
        if not compared:
            raise InputError(f"--heads {task.name}={head}: {_cannot_compare(task)}")
    fitting = fitting_losses(task, links)
    main = [fitting[0] if name == "auto" else name for name in names if not is_of_pairs(name)]
    added = tuple(name for name in names if is_of_pairs(name))
    flag = f"--losses {task.name}={'+'.join(names)}"
    if added and not compared:
        raise InputError(f"{flag}: {_cannot_compare(task)}")
    if len(main) > 1 or len(set(added)) < len(added):
        raise InputError(f"{flag}: expected one loss of the logits at most, and each other one once")
    if main and (link := link_of(task, main[0])) not in links:
        own = f", or one with link {' or '.join(links)}; this one's is {link}" if is_own(main[0]) else ""
        raise InputError(f"{flag}: with a {head} head, {task.name} ({task.kind}) takes {', '.join(fitting)}{own}")
    if not main and HEADS.entry(head).has_parameters:
        raise InputError(
            f"{flag}: nothing trains the {head} head; add one of {', '.join(fitting)}, or take --heads cosine"
        )
    if task.class_weights is not None and (not main or is_own(main[0])):
        reason = "a loss of your own weighs the classes itself" if main else "there is no loss of the logits to weigh"
        raise InputError(f"{flag}: {task.name} has class weights, but {reason}")
    for name in filter(is_own, added):
        try_pair_loss(name)
    if main and is_own(main[0]):
        try_loss(main[0], task, outputs_of(task, link_of(task, main[0])))
    return (main[0] if main else None), added


def _cannot_compare(task: Task) -> str:
    """Why the embeddings of a task's pairs cannot be compared."""
    if not task.pair:
        return f"{task.name} is no task of pairs"
    if task.kind == "classification":
        return f"{task.name} has classes, expected a score or a yes or no"
    return f"expected pairs as two sequences, --pair-encoding {task.name}=separate"


def _separate(pair_encoding: PerTask[str], task: Task) -> bool:
    return task.pair and pair_encoding[task.name] == "separate"
