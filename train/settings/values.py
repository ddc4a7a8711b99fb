"""Settings that hold several values: one for each task, and the stages of a run, parsed from the texts of the flags."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from concord.bert.errors import InputError, did_you_mean

STAGES = ("all", "heads")
MEAN = "mean"  # what the best model is chosen by, where that is no single metric
INVERSE_SHARE, UNCERTAINTY = "inverse-share", "uncertainty"  # loss weights that are no numbers
OF_TASK, NONE = "auto", "none"  # a metric, or class weights, as a task's own table says, and no such weights
Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class PerTask(Generic[Value]):
    """A value for each task: `per_task[task]` is the task's own value, or else the one for all tasks.

    Attributes:
        default: of all tasks without a value of their own.
        own: task -> its value.
    """

    default: Value
    own: Mapping[str, Value] = field(default_factory=dict)

    def __getitem__(self, task: str) -> Value:
        return self.own.get(task, self.default)

    def values(self) -> list[Value]:
        """Every value that is given, the one for all tasks first."""
        return [self.default, *self.own.values()]

    def map(self, function: Callable[[Value], Other]) -> "PerTask[Other]":
        """The same with the result of `function` in place of each value."""
        return PerTask(function(self.default), {task: function(value) for task, value in self.own.items()})


@dataclass(frozen=True)
class Stage:
    """A stretch of a run in which the same parameters are trained.

    Attributes:
        trains: everything, or the heads alone, for which the encoder is frozen.
        epochs: how long the stage is.
    """

    trains: Literal["all", "heads"]
    epochs: int


def parse_per_task(flag: str, items: Sequence[str], tasks: Sequence[str], default: str) -> PerTask[str]:
    """The values that `items` give, each `task=value`, or `value` for all tasks.

    default: the value for all tasks where no item gives one. InputError that names `flag` for an unknown task, and
    where a task, or all tasks, are given two values.
    """
    pairs = [item.rpartition("=")[::2] for item in items]
    for item, (owner, _) in zip(items, pairs, strict=True):
        if "=" in item and owner not in tasks:
            raise InputError(f"{flag} {item}: {did_you_mean(owner, tasks)}")
    values = dict(pairs)
    if len(values) < len(pairs):
        first, second = (value for _, value in pairs[:2])
        raise InputError(
            f"{flag} {','.join(items)}: expected one value for all and task=value for some, each once, such as "
            f"{first},{tasks[0]}={second}"
        )
    return PerTask(values.pop("", default), values)


def parse_number(flag: str, text: str, others: Collection[str] = ()) -> float:
    """A number of at least 0; InputError for anything else. others: the names that `flag` takes beside numbers."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        named = "".join(f", or {other}" for other in others)
        raise InputError(f"{flag} {text}: expected a number of at least 0{named}")
    return number


def parse_class_weights(flag: str, text: str) -> str | dict[str, float]:
    """The class weights that `text` gives: a name without a colon as it is, or LABEL:WEIGHT with + between several.

    InputError that names `flag` where a weight is no number of at least 0, or a label is given twice.
    """
    if ":" not in text:
        return text
    found = {}
    for item in text.split("+"):
        label, colon, weight = item.rpartition(":")
        if not colon or not label or label in found:
            raise InputError(f"{flag} {text}: expected LABEL:WEIGHT, each label once, such as 0:1+1:2.5")
        found[label] = parse_number(flag, weight)
    return found


def parse_best_metric(text: str, tasks: Sequence[str]) -> tuple[str, str] | None:
    """The task and the metric that `TASK.METRIC` names, or None for `MEAN`; InputError for anything else."""
    if text == MEAN:
        return None
    task, _, metric = text.partition(".")
    if task not in tasks or not metric:
        example = f"{tasks[0]}.accuracy"
        raise InputError(f"--best-metric {text}: expected {MEAN}, or a metric of one of the tasks, such as {example}")
    return task, metric


def parse_stages(items: Sequence[str], epochs: int) -> tuple[Stage, ...]:
    """The stages that `items` give, each `all:EPOCHS` or `heads:EPOCHS`; a single one needs no number.

    epochs: of the run. InputError where an item is none of these, or the stages do not add up to the run's epochs.
    """
    if not items:
        raise InputError("--stages: expected at least one")
    stages = []
    for item in items:
        trains, _, count = item.partition(":")
        if trains not in STAGES:
            raise InputError(f"--stages {item}: expected {' or '.join(STAGES)}")
        if (count or len(items) > 1) and not (count.isdecimal() and int(count)):
            raise InputError(f"--stages {item}: expected a number of epochs, such as {trains}:5")
        stages.append(Stage(trains, int(count or epochs)))
    total = sum(stage.epochs for stage in stages)
    if total != epochs:
        raise InputError(f"--stages {','.join(items)}: {total} epochs, but --epochs {epochs}")
    return tuple(stages)
