"""Losses as loops have them: scalars, functions that give them, tasks by name, and tasks that a batch does not have."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from concord.bert.errors import did_you_mean

Loss = Tensor | float | None
Losses = Mapping[str, Loss | Callable[[], Loss]] | Iterable[Loss | Callable[[], Loss]]

_SCALED_WITHIN = 4  # operations after `scaler.scale`, such as a division by the micro-batches


def tasks_and_losses(losses: Losses, tasks: Sequence[str] | None) -> Iterator[tuple[str, Tensor | None, bool]]:
    """Each task's name, its loss (None where the task is absent), and whether a later loss may need the same graph.

    losses: what `Surgery.pc_backward` is given. A function, and what a generator yields next, is asked for its loss
    when the one before it has been used. tasks: the names, in their order, where they are known already; a mapping's
    order is theirs, and those that it lacks are absent.

    ValueError and TypeError where losses are none, too few, too many, of unknown tasks, or no scalars.
    """
    if isinstance(losses, Tensor):  # autograd gives a zero to what another loss of a stack reaches
        raise TypeError(f"losses are one tensor of shape {list(losses.shape)}: expected one scalar a task, not stacked")
    if isinstance(losses, Mapping):
        losses = _in_order(losses, tasks)
        tasks = list(losses)
        losses = list(losses.values())
    elif isinstance(losses, Collection) and not isinstance(losses, Sequence):
        losses = list(losses)  # as the values of a mapping, which are there already
    elif not isinstance(losses, Iterable):
        raise TypeError(f"losses are a {type(losses).__name__}: expected one loss a task")
    if isinstance(losses, Sequence):
        _check_count(len(losses), tasks)
        for number, loss in enumerate(losses):  # before the first graph is freed
            if isinstance(loss, Tensor):
                _check_scalar(_name(number, tasks), loss)
    # The graphs of losses that are there already may have a part in common.
    shared = sum(isinstance(loss, Tensor) for loss in losses) if isinstance(losses, Sequence) else 0
    number = -1
    for number, given in enumerate(losses):
        if isinstance(losses, Sequence):
            shared -= isinstance(given, Tensor)
        elif tasks is not None and number == len(tasks):
            raise ValueError(f"more than {len(tasks)} losses: the tasks so far are {', '.join(tasks)}")
        task = _name(number, tasks)
        yield task, _loss(task, given), shared > 0
    _check_count(number + 1, tasks)


def distinct_names(tasks: Iterable[object]) -> list[str]:
    """The tasks' names as texts; ValueError where two are the same text, or one text is all of them."""
    names = list(map(str, tasks))
    if isinstance(tasks, str) or len(set(names)) < len(names):
        raise ValueError(f"tasks {tasks if isinstance(tasks, str) else names}: expected different names, one a task")
    return names


def _in_order(losses: Mapping[str, Loss | Callable[[], Loss]], tasks: Sequence[str] | None) -> dict[str, object]:
    named = dict(zip(distinct_names(losses), losses.values(), strict=True))
    for task in named:
        if tasks is not None and task not in tasks:
            raise ValueError(f"losses have a task {task}: {did_you_mean(task, tasks)}; tasks= names them all")
    return named if tasks is None else {task: named.get(task) for task in tasks}


def _name(number: int, tasks: Sequence[str] | None) -> str:
    return str(number) if tasks is None else tasks[number]


def _check_count(count: int, tasks: Sequence[str] | None) -> None:
    if count == 0:
        raise ValueError("no losses: expected one a task")
    if tasks is not None and count != len(tasks):
        raise ValueError(
            f"{count} losses: the tasks so far are {len(tasks)} ({', '.join(tasks)}); None stands for an absent one"
        )


def _check_scalar(task: str, loss: Tensor) -> None:
    if loss.numel() != 1:
        raise ValueError(f"loss {task} has shape {list(loss.shape)}: expected a scalar")


def _loss(task: str, given: object) -> Tensor | None:
    """The loss that is given or that a function gives; None where the task is absent."""
    if callable(given) and not isinstance(given, Tensor):
        with torch.enable_grad():
            given = given()
    if isinstance(given, Tensor):
        _check_scalar(task, given)
        return given
    if given is None or (isinstance(given, int | float) and given == 0):
        return None
    found = f"the number {given}" if isinstance(given, int | float) else f"a {type(given).__name__}"
    raise TypeError(
        f"loss {task} is {found}: expected a scalar tensor, a function that gives one, or None where the task is absent"
    )


def is_scaled(loss: Tensor, scaler: torch.amp.GradScaler) -> bool:
    """Whether a loss has been multiplied by the scaler's scale, as far as its last operations say."""
    scale, node = scaler._scale, loss.grad_fn
    if scale is None:  # the scaler has not been used yet
        return False
    for _ in range(_SCALED_WITHIN):
        if node is None:
            return False
        for operand in ("_saved_self", "_saved_other"):
            saved = getattr(node, operand, None)
            if isinstance(saved, Tensor) and saved.data_ptr() == scale.data_ptr() and not saved.is_meta:
                return True
        node = node.next_functions[0][0] if node.next_functions else None
    return False
