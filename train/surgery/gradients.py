"""Tasks' gradients: asked of autograd, or left in `.grad` by a backward where autograd cannot be asked for them.

`torch.autograd.grad` follows the graph from the loss to the parameters. Reentrant activation checkpointing hides a part
of the graph, and FSDP2 the parameters: what lies behind has no gradient then, and nothing is said. A backward leaves it
in `.grad`, from where it is taken.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_REENTRANT = "CheckpointFunctionBackward"  # torch's own, and of libraries that have copied it
_HOOKS = "_post_accumulate_grad_hooks"  # where torch.Tensor keeps what register_post_accumulate_grad_hook was given


@dataclass
class TaskGradients:
    """The gradients of one call.

    Attributes:
        parameters: by their number, counted over the optimizer's groups.
        gradients: [P][T], None where a task does not reach a parameter.
        tasks: their names; present: whether each of them has a loss in this call.
    """

    parameters: dict[int, Tensor]
    gradients: list[list[Tensor | None]]
    tasks: list[str]
    present: list[bool]


@dataclass(frozen=True)
class Graph:
    """What a walk from losses through their graphs finds.

    Attributes:
        reentrant: whether a part is hidden behind reentrant checkpointing.
        leaves: the tensors that a backward from the losses would add gradients to, as far as they are not hidden.
    """

    reentrant: bool
    leaves: list[Tensor]

    @classmethod
    def of(cls, losses: Sequence[Tensor]) -> "Graph":
        """Walk from `losses`: about 0.3 ms for twelve layers, and nothing is read from the device."""
        waiting = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
        seen, reentrant, leaves = set(waiting), False, [loss for loss in losses if loss.grad_fn is None]
        while waiting:
            node = waiting.pop()
            reentrant |= type(node).__name__.endswith(_REENTRANT)
            for following, _ in node.next_functions:
                if following is None or following in seen:
                    continue
                seen.add(following)
                if type(following).__name__ == "AccumulateGrad":
                    leaves.append(following.variable)
                else:
                    waiting.append(following)
        return cls(reentrant, leaves)


def gradients_of(
    loss: Tensor, parameters: Sequence[Tensor], others: Sequence[Tensor] | None, *, retain_graph: bool
) -> list[Tensor | None]:
    """The gradient of each parameter, None where the loss does not reach it; every `.grad` stays what it is.

    others: where a backward is to be used, the further tensors that it would add gradients to; None to ask autograd.
    """
    if others is None:
        return list(torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True))
    with _set_aside([*parameters, *others]), _without_hooks([*parameters, *others]):
        loss.backward(retain_graph=retain_graph)
        return [parameter.grad for parameter in parameters]


@contextmanager
def _set_aside(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within this context they have no `.grad`; after it the one that they had."""
    kept = [tensor.grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.grad = None
        yield
    finally:
        for tensor, gradient in zip(tensors, kept, strict=True):
            tensor.grad = gradient


@contextmanager
def _without_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within this context what waits for a parameter's gradient is not told of one task's."""
    kept = [(hooks, dict(hooks)) for parameter in parameters if (hooks := getattr(parameter, _HOOKS, None))]
    try:
        for hooks, _ in kept:
            hooks.clear()
        yield
    finally:
        for hooks, those in kept:
            hooks.update(those)


def run_hooks(parameter: Tensor) -> None:
    """Tell what waits for a parameter's gradient that the merged one has been added."""
    for hook in list((getattr(parameter, _HOOKS, None) or {}).values()):
        hook(parameter)
