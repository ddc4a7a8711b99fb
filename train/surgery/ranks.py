"""Surgery in many processes: each task's gradients averaged over the ranks, and Gram matrices of sharded parameters.

An average over the ranks is what a loss's mean over the whole batch has for a gradient, where the ranks' batches are
equally large, as under `DistributedDataParallel`. Surgery of it has the same coefficients on all ranks.
"""

import zlib
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from concord.bert.errors import shown
from concord.kernels.surgery.multi_tensor import gram_of_tensors
from concord.train.ranks.group import Group

_BUCKET = 25 * 2**20  # bytes that are sent at once, as DistributedDataParallel does


def group_of(given: Group | EllipsisType | None) -> Group | None:
    """The group whose ranks share their gradients; None where each rank is by itself.

    given: `...` where the user has said nothing, which is a ValueError in a process that is not alone, as is a group
    that it does not belong to.
    """
    alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
    if given is ...:
        if not alone:
            raise ValueError(
                f"process_group= must be given, since this process is one of {dist.get_world_size()}: "
                "torch.distributed.group.WORLD, or the group whose ranks train one model, to average each task's "
                "gradients over it before surgery; None where each rank trains by itself"
            )
        return None
    if given is None:
        return None
    if dist.get_rank(given) < 0:
        raise ValueError(f"this process, of rank {dist.get_rank()}, is not one of process_group's")
    return None if dist.get_world_size(given) == 1 else given


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as the parameters of FSDP2 and of tensor parallelism are."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor  # takes a while to import

    return isinstance(tensor, DTensor)


def to_local(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """This rank's piece of a sharded parameter's gradient; any other gradient unchanged."""
    if gradient is None or not is_sharded(parameter):
        return gradient
    if gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient.to_local()


def from_local(piece: Tensor, parameter: Tensor) -> Tensor:
    """The opposite of `to_local`."""
    if not is_sharded(parameter):
        return piece
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        piece,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def average_over_ranks(
    gradients: list[list[Tensor | None]],
    parameters: Sequence[Tensor],
    present: Sequence[bool],
    group: Group,
    *,
    same: str,
) -> tuple[list[list[Tensor | None]], list[bool]]:
    """Each gradient's average over the ranks of `group`, zeros counting for a rank that has none, and which of the
    tasks a rank has.

    gradients: [P][T], this rank's pieces; parameters: [P]; present: [T], the tasks that this rank has; same: what all
    ranks have to have in common, written down. A sharded parameter's gradient is averaged by what has sharded it.
    ValueError, on all ranks, where `same` or their numbers of parameters or tasks differ. The host waits for one byte a
    parameter and task, which says who has gradients.
    """
    device = parameters[0].device
    _check_agreement([len(parameters), len(present), sum(p.numel() for p in parameters)], same, device, group)
    held = torch.tensor([present, *([one is not None for one in own] for own in gradients)], dtype=torch.uint8)
    held = held.to(device)
    dist.all_reduce(held, dist.ReduceOp.MAX, group)
    present, *anywhere = held.bool().tolist()
    averaged, sent = [], []
    for parameter, own, places in zip(parameters, gradients, anywhere, strict=True):
        local = parameter.to_local() if is_sharded(parameter) else parameter
        own = [
            torch.zeros_like(local) if there and one is None else one for one, there in zip(own, places, strict=True)
        ]
        averaged.append(own)
        if not is_sharded(parameter):
            sent += [(own, task) for task, one in enumerate(own) if one is not None]
    size = dist.get_world_size(group)
    for bucket in _buckets(sent):
        flat = torch.cat([own[task].reshape(-1) for own, task in bucket])
        dist.all_reduce(flat.div_(size), dist.ReduceOp.SUM, group)  # divided first, as a sum may overflow
        pieces = flat.split([own[task].numel() for own, task in bucket])
        for (own, task), piece in zip(bucket, pieces, strict=True):
            own[task] = piece.view(own[task].shape)
    return averaged, present


def _check_agreement(numbers: list[int], same: str, device: torch.device, group: Group) -> None:
    numbers = [*numbers, zlib.crc32(same.encode())]
    both = torch.tensor([*numbers, *(-number for number in numbers)], dtype=torch.int64).to(device)
    dist.all_reduce(both, dist.ReduceOp.MAX, group)
    most, least = both.tolist()[: len(numbers)], [-number for number in both.tolist()[len(numbers) :]]
    if most[:-1] != least[:-1]:
        raise ValueError(
            f"the ranks differ: from {least[0]} parameters, {least[1]} tasks and {least[2]} elements to {most[0]}, "
            f"{most[1]} and {most[2]}; None stands for a task that a rank's batch does not have"
        )
    if most != least:
        raise ValueError(
            f"the ranks differ in the tasks' names or their order, or in reduction, scope, rule, beta or seed: this "
            f"one has {shown(same)}"
        )


def _buckets(sent: list[tuple[list[Tensor], int]]) -> Iterator[list[tuple[list[Tensor], int]]]:
    """What is sent, in pieces of one dtype and about `_BUCKET` bytes."""
    by_dtype: dict[torch.dtype, list[tuple[list[Tensor], int]]] = {}
    for own, task in sent:
        by_dtype.setdefault(own[task].dtype, []).append((own, task))
    for those in by_dtype.values():
        bucket, filled = [], 0
        for own, task in those:
            bucket.append((own, task))
            filled += own[task].numel() * own[task].element_size()
            if filled >= _BUCKET:
                yield bucket
                bucket, filled = [], 0
        if bucket:
            yield bucket


def gram_over_ranks(
    gradients: Sequence[Sequence[Tensor | None]], parameters: Sequence[Tensor], tasks: int, group: Group | None
) -> Tensor:
    """The Gram matrix over all parameters, fp64 [T, T], the same on all ranks.

    gradients: [P][T], this rank's pieces, P at least 1; parameters: [P]. Pieces of sharded parameters have partial
    Gram matrices, which are added up over the dimensions of the mesh that they are sharded over.
    """
    meshes: dict[Any, list[int]] = {}
    for index, parameter in enumerate(parameters):
        key = None
        if is_sharded(parameter):
            placements = parameter.placements
            dimensions = tuple(number for number, placed in enumerate(placements) if not placed.is_replicate())
            key = (parameter.device_mesh, dimensions)
        meshes.setdefault(key, []).append(index)
    gram = torch.zeros(tasks, tasks, dtype=torch.float64, device=parameters[0].device)
    for key, indices in meshes.items():
        given = [gradients[index] for index in indices if any(g is not None and g.numel() for g in gradients[index])]
        part = gram_of_tensors(given) if given else torch.zeros_like(gram)
        if key is not None:
            mesh, dimensions = key
            for dimension in dimensions:
                dist.all_reduce(part, group=mesh.get_group(dimension))
        gram += part
    if group is not None:  # what is decided by a sign is decided once
        dist.broadcast(gram, dist.get_global_rank(group, 0), group)
    return gram
