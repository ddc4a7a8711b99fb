"""Gradient surgery for any model and any optimizer of torch: a wrapper around the optimizer.

Each loss has a backward pass of its own. Dot products are taken once, of the original gradients; what surgery does to
them is worked out in the Gram matrix, and the merged gradient is one combination of the originals, added to `.grad`.
With the rules of the device nothing is read on the host, unless there are several processes.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from concord.kernels.surgery.multi_tensor import combine_tensors
from concord.kernels.surgery.rules import MOST_TASKS
from concord.train.surgery import ranks
from concord.train.surgery.checks import check_gradients, check_parameters, check_used
from concord.train.surgery.gradients import Graph, TaskGradients, gradients_of, run_hooks
from concord.train.surgery.losses import Losses, distinct_names, is_scaled, tasks_and_losses
from concord.train.surgery.rules import LoopRule
from concord.train.surgery.statistics import LastCall, SurgeryStatistics
from concord.train.surgery.wrapping import WrappedOptimizer

REDUCTIONS = ("mean", "sum")
SCOPES = ("shared", "all")


@dataclass
class _Known:
    """What calls have found: one object, as what is set on a trainer's stand-in for the wrapper stays with that.

    reached: task -> the numbers of the parameters that it reached when it was last there; told: warnings.
    """

    tasks: list[str] | None
    unused_checked: bool
    reached: dict[str, set[int]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    last: LastCall | None = None


def _device_of(gradients: list[list[Tensor | None]]) -> torch.device:
    return next(gradient.device for own in gradients for gradient in own if gradient is not None)


class Surgery(WrappedOptimizer):
    """An optimizer that merges the gradients of several losses by a rule of surgery before it steps.

    >>> import torch
    >>> from concord import Surgery
    >>> trunk, heads = torch.nn.Linear(8, 16), torch.nn.ModuleList([torch.nn.Linear(16, 1), torch.nn.Linear(16, 1)])
    >>> optimizer = Surgery(torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.01), rule="pcgrad")
    >>> inputs, targets = torch.randn(32, 8), torch.randn(2, 32, 1)
    >>> for step in range(100):
    ...     features = trunk(inputs).relu()
    ...     losses = [(head(features) - target).square().mean() for head, target in zip(heads, targets)]
    ...     optimizer.zero_grad()
    ...     optimizer.pc_backward(losses)
    ...     optimizer.step()

    Args:
        optimizer: any optimizer, over the parameters of all tasks, on one device; gradients are dense.
        rule: "none", "pcgrad", "gradvac", one of TorchJD's as `concord run --surgery` names them, "MODULE:FUNCTION", or
            a function (Gram matrices fp64 [1, T, T] on the CPU) -> coefficients [1, T], by which the gradients are
            multiplied before they are added up. Only none, pcgrad and gradvac do not wait for the device.
        reduction: whether a parameter that all losses reach gets the mean or the sum of the changed gradients;
            TorchJD's rules come in the scale of a mean.
        scope: "shared": surgery concerns the parameters that all losses reach, and others get the sum of the gradients
            they have; "all": dot products span all parameters, and all are scaled alike.
        seed: of the random orders in which tasks meet.
        beta: of gradvac, 0.01 unless given: how fast the averages follow the cosines.
        scaler: multiplies the losses; `step` then steps and updates it. Left out, a scaler is used as with any other
            optimizer: losses are given scaled, and `scaler.step(optimizer)`, `scaler.update()` follow.
        tasks: the tasks' names; where left out the first call's losses tell them.
        process_group: the ranks over which each task's gradients are averaged before surgery, None where each rank
            trains by itself; needed where the process is one of several. The model may be a DistributedDataParallel
            under its `no_sync`, or have FSDP2's parameters, which FSDP2 averages itself.
        allow_unused: whether parameters may require a gradient that no task has.
        by_backward: take the gradients from `.grad` after a backward, since autograd cannot be asked for them. It is
            done in any case where the parameters are DTensors, and where losses lie behind reentrant checkpointing.

    TypeError and ValueError where an optimizer, which is then named, or an option cannot be had.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        rule: str | Callable[[Tensor], Tensor] = "pcgrad",
        reduction: str = "mean",
        scope: str = "shared",
        seed: int = 0,
        beta: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        tasks: Sequence[str] | None = None,
        process_group: ranks.Group | EllipsisType | None = ...,
        allow_unused: bool = False,
        by_backward: bool = False,
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")
        if scope not in SCOPES:
            raise ValueError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
        super().__init__(optimizer, scaler)
        ranks.group_of(process_group)
        self._rule = LoopRule(rule, beta=beta, seed=seed)
        if self._rule.library and reduction == "sum":
            raise ValueError(f"reduction 'sum': the rule {self._rule.name} comes in the scale of a mean")
        self._mean = reduction == "mean"
        self._spans_all = scope == "all"
        self._process_group = process_group
        self._by_backward = by_backward
        self._allow_unused = allow_unused
        self._known = _Known(None if tasks is None else distinct_names(tasks), unused_checked=allow_unused)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Surgery":
        memo[id(self._process_group)] = self._process_group  # the processes' own, of which there are no copies
        return super().__deepcopy__(memo)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer's; whether its parameters are used is asked anew."""
        super().add_param_group(param_group)
        self._known.unused_checked = self._allow_unused

    def pc_backward(self, losses: Losses, *, retain_graph: bool = False) -> None:
        """Add the merged gradient of the tasks to the `.grad` of the optimizer's parameters.

        losses: one a task, in the same order every time, or a mapping by the tasks' names. Each is a scalar, or a
        function that gives one: functions, and what a generator yields, are asked one after the other, so that one
        graph is alive at a time. A task that the batch does not have is None, 0.0, missing in the mapping, or a scalar
        without a graph: its gradient is zero, and it meets nobody. Called several times before `step`, merged
        gradients add up.

        retain_graph: whether the graphs stay, as another optimizer over the same losses needs them.

        ValueError and TypeError where losses are too few, too many or no scalars; where no parameter requires a
        gradient, or one has none in any task, the first time that all tasks are there; where gradients are sparse or
        lie on several devices. Nothing has been added then.
        """
        group = ranks.group_of(self._process_group)
        found = self._task_gradients(losses, retain_graph)
        self._rule.next_call()
        if group is not None:
            parameters = list(found.parameters.values())
            same = (found.tasks, self._mean, self._spans_all, *self._rule.same_on_all_ranks())
            found.gradients, found.present = ranks.average_over_ranks(
                found.gradients, parameters, found.present, group, same=repr(same)
            )
        self._check_used(found)
        self._known.tasks = found.tasks
        self._add_merged(found, group)

    def _task_gradients(self, losses: Losses, retain_graph: bool) -> TaskGradients:
        places = enumerate(parameter for group in self.param_groups for parameter in group["params"])
        # torch only warns of a parameter that is in a group twice: it is one all the same.
        once = {id(parameter): (number, parameter) for number, parameter in reversed(list(places))}
        numbered = {number: parameter for number, parameter in reversed(once.values()) if parameter.requires_grad}
        check_parameters(self.param_groups, numbered)
        parameters = list(numbered.values())
        tasks, present, by_task = [], [], []
        for task, loss, shares in tasks_and_losses(losses, self._known.tasks):
            tasks.append(task)
            loss = self._checked(task, loss)
            present.append(loss is not None)
            if loss is None:
                by_task.append([None] * len(parameters))
                continue
            others = self._others(loss, parameters)
            own = gradients_of(self._scale(loss), parameters, others, retain_graph=retain_graph or shares)
            check_gradients(self.param_groups, dict(zip(numbered, own, strict=True)), parameters[0].device)
            by_task.append([ranks.to_local(g, parameter) for g, parameter in zip(own, parameters, strict=True)])
        return TaskGradients(numbered, [list(own) for own in zip(*by_task, strict=True)], tasks, present)

    def _checked(self, task: str, loss: Tensor | None) -> Tensor | None:
        """The loss, None where it has no graph; ValueError where it has been scaled and would be so again."""
        if loss is None:
            return None
        if not loss.requires_grad:
            self._tell(f"loss {task} has no graph: the task is taken as absent, and its gradient as zero")
            return None
        if self._scaler is not None and self._scaler.is_enabled() and is_scaled(loss, self._scaler):
            raise ValueError(f"loss {task} is scaled already: scaler= multiplies the losses that are given")
        return loss

    def _tell(self, message: str) -> None:
        """Warn of something once."""
        if message not in self._known.told:
            self._known.told.add(message)
            warnings.warn(message, stacklevel=5)

    def _others(self, loss: Tensor, parameters: list[Tensor]) -> list[Tensor] | None:
        """None where autograd may be asked, else what a backward would add gradients to beside the parameters."""
        graph = Graph.of([loss])
        if not (self._by_backward or graph.reentrant or any(map(ranks.is_sharded, parameters))):
            return None
        own = set(map(id, parameters))
        return [leaf for leaf in graph.leaves if id(leaf) not in own]

    def _check_used(self, found: TaskGradients) -> None:
        """ValueError where a parameter has no gradient in any task, once all tasks have been there."""
        if not any(found.present):
            raise ValueError(f"no loss has a graph: all tasks are absent ({', '.join(found.tasks)})")
        if not self._known.unused_checked and all(found.present):
            check_used(self.param_groups, dict(zip(found.parameters, found.gradients, strict=True)))
            self._known.unused_checked = True

    @torch.no_grad()
    def _add_merged(self, found: TaskGradients, group: ranks.Group | None) -> None:
        tasks = len(found.tasks)
        if tasks > MOST_TASKS:
            self._tell(f"{tasks} tasks: the kernels take {MOST_TASKS} at most, torch's expressions are used")
        reached = [
            (number, parameter, own)
            for (number, parameter), own in zip(found.parameters.items(), found.gradients, strict=True)
            if any(gradient is not None for gradient in own)
        ]
        if not reached:
            return
        numbers, parameters, gradients = map(list, zip(*reached, strict=True))
        everywhere = self._shared(found, dict(zip(numbers, gradients, strict=True)))
        chosen = [index for index, shared in enumerate(everywhere) if shared or self._spans_all]
        coefficients = torch.ones(tasks, dtype=torch.float64, device=_device_of(gradients))
        gram, scale = coefficients.new_zeros(tasks, tasks), self._known_scale(coefficients.device)
        if chosen:
            rows = [gradients[index] for index in chosen], [parameters[index] for index in chosen]
            gram = ranks.gram_over_ranks(*rows, tasks, group)
            coefficients = self._rule(gram, scale)
        absent = [task for task, present in zip(found.tasks, found.present, strict=True) if not present]
        self._known.last = LastCall(found.tasks, absent, gram, coefficients, scale)
        shared_row = coefficients / tasks if self._mean else coefficients
        other_row = coefficients if self._spans_all else torch.ones_like(coefficients)
        table = torch.stack([shared_row if shared else other_row for shared in everywhere])
        pieces = [ranks.to_local(parameter, parameter) for parameter in parameters]
        for parameter, merged in zip(parameters, combine_tensors(gradients, table, pieces), strict=True):
            merged = ranks.from_local(merged, parameter)
            if parameter.grad is None:
                parameter.grad = merged
            else:
                parameter.grad += merged
            run_hooks(parameter)

    def _shared(self, found: TaskGradients, gradients: Mapping[int, list[Tensor | None]]) -> list[bool]:
        """Whether all tasks reach each parameter; an absent task those that it reached when it was last there.

        A task that has never been there reaches what all others do.
        """
        for place, task in enumerate(found.tasks):
            if found.present[place]:
                self._known.reached[task] = {number for number, own in gradients.items() if own[place] is not None}
        known = [self._known.reached[task] for task in found.tasks if task in self._known.reached]
        return [all(number in numbers for numbers in known) for number in gradients]

    def statistics(self) -> SurgeryStatistics:
        """Cosines, conflicts, norms, and how much surgery changed in the last `pc_backward`.

        Nothing is read from the device before it is asked for. RuntimeError before the first call.
        """
        if self._known.last is None:
            raise RuntimeError("no gradients have been merged yet")
        return self._known.last.read()

    def _surgery_state(self) -> dict[str, Any]:
        return {
            **self._rule.state(),
            "tasks": copy.copy(self._known.tasks),
            "reached": {task: sorted(numbers) for task, numbers in self._known.reached.items()},
        }

    def _load_surgery_state(self, state: Mapping[str, Any]) -> None:
        tasks = state["tasks"]
        if tasks is not None and self._known.tasks is not None and tasks != self._known.tasks:
            raise ValueError(f"the state is of the tasks {', '.join(tasks)}, these are {', '.join(self._known.tasks)}")
        self._rule.load(state)
        self._known.tasks = copy.copy(tasks) or self._known.tasks
        self._known.reached = {task: set(numbers) for task, numbers in state["reached"].items()}


class PCGrad(Surgery):
    """PCGrad (Yu et al., 2020): where two tasks' gradients conflict, each loses its part along the other.

    It takes what `Surgery` takes, but for the rule.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        super().__init__(optimizer, rule="pcgrad", **options)


class GradVac(Surgery):
    """GradVac (Wang et al., 2021): two tasks' gradients are brought up to the cosine that they have had on average.

    It takes what `Surgery` takes, but for the rule.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        super().__init__(optimizer, rule="gradvac", **options)
