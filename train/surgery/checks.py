"""What is asked of the gradients of one call, and the names that messages have for parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Groups = Sequence[Mapping[str, Any]]  # an optimizer's param_groups

_NAMED_AT_ONCE = 3


def _name(groups: Groups, number: int) -> str:
    """A parameter's name, where the optimizer was given names, or its place, and its shape."""
    for place, group in enumerate(groups):
        if number < len(group["params"]):
            name = group["param_names"][number] if "param_names" in group else number
            return f"parameter {name} {list(group['params'][number].shape)} of group {place}"
        number -= len(group["params"])
    raise IndexError(number)


def check_parameters(groups: Groups, parameters: Mapping[int, Tensor]) -> None:
    """ValueError where there is no parameter, or one of the first FSDP, whose pieces are no tensors of their own.

    parameters: their numbers, counted over all groups -> those that require a gradient.
    """
    if not parameters:
        raise ValueError("no parameter of the optimizer requires a gradient")
    for number, parameter in parameters.items():
        if getattr(parameter, "_fsdp_flattened", False):
            raise ValueError(
                f"{_name(groups, number)} belongs to FullyShardedDataParallel, whose pieces have no gradients of their "
                "own: surgery takes what torch.distributed.fsdp.fully_shard has sharded"
            )


def check_gradients(groups: Groups, gradients: Mapping[int, Tensor | None], device: torch.device) -> None:
    """ValueError that names a parameter whose gradient is sparse, or not on `device`.

    gradients: the parameters' numbers, counted over all groups -> one task's gradients.
    """
    for number, gradient in gradients.items():
        if gradient is None:
            continue
        if gradient.layout != torch.strided:
            raise ValueError(
                f"{_name(groups, number)} has a gradient of {gradient.layout}: surgery takes dense ones, as an "
                "embedding gives with sparse=False"
            )
        if gradient.device != device:
            raise ValueError(
                f"{_name(groups, number)} is on {gradient.device}, others are on {device}: surgery takes one device"
            )


def check_used(groups: Groups, gradients: Mapping[int, Sequence[Tensor | None]]) -> None:
    """ValueError that names the parameters which have no gradient in any task.

    gradients: the parameters' numbers, counted over all groups -> [T].
    """
    unused = [_name(groups, number) for number, own in gradients.items() if all(one is None for one in own)]
    if unused:
        more = f" and {len(unused) - _NAMED_AT_ONCE} more" if len(unused) > _NAMED_AT_ONCE else ""
        raise ValueError(
            f"{', '.join(unused[:_NAMED_AT_ONCE])}{more}: no loss reaches what requires a gradient; freeze it, give "
            "None as the loss of a task that the batch does not have, allow_unused=True, or by_backward=True where "
            "something hides it from torch.autograd.grad"
        )
