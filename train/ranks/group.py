"""The processes of one run, and what they send to each other."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from concord.bert.errors import InputError
from concord.kernels.dropout import STREAMS

# torch 2.13 has these under new names, and warns of the old ones, which alone torch 2.11 has.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

Group = Any  # torch.distributed.ProcessGroup, which a build of torch without processes does not have


@dataclass(frozen=True)
class Ranks:
    """One process among those of a run. Every method but those of one process alone is called on all ranks.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        group: which sends what lies on the run's device.
        host: which sends what lies in the host's memory.
    """

    rank: int
    size: int
    group: Group
    host: Group

    def add_up(self, tensor: Tensor) -> Tensor:
        """Put the sum over the ranks into `tensor`, on the run's device, and return it."""
        dist.all_reduce(tensor, dist.ReduceOp.SUM, self.group)
        return tensor

    def most(self, tensor: Tensor) -> Tensor:
        """Put the maximum over the ranks into `tensor`, on the run's device, and return it."""
        dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group)
        return tensor

    def spread(self, tensor: Tensor) -> Tensor:
        """Put what rank 0 has there into `tensor`, on the run's device, and return it."""
        dist.broadcast(tensor, dist.get_global_rank(self.group, 0), self.group)
        return tensor

    def scatter_sums(self, piece: Tensor, whole: Tensor) -> Any:
        """Begin to put this rank's piece of the sum over the ranks of `whole` [size * n] into `piece` [n]; what is
        returned waits for it."""
        return _reduce_scatter(piece, whole, group=self.group, async_op=True)

    def gather(self, whole: Tensor, piece: Tensor) -> Any:
        """Begin to put the ranks' `piece` [n, ...], one after the other, into `whole` [size * n, ...]; what is returned
        waits for it."""
        return _all_gather(whole, piece, group=self.group, async_op=True)

    def collect(self, piece: Tensor) -> Tensor | None:
        """On rank 0 the pieces of all ranks, one after the other, [size * n] on the device; None on the others."""
        whole = torch.empty(self.size * len(piece), dtype=piece.dtype, device=piece.device) if not self.rank else None
        places = None if whole is None else list(whole.chunk(self.size))
        dist.gather(piece.contiguous(), places, dist.get_global_rank(self.group, 0), self.group)
        return whole


def first_stream(ranks: Ranks | None, accumulate: int) -> int:
    """The number of a rank's first stream of random numbers in a step, so that no two ranks draw from one.

    accumulate: micro-batches a step, each of which has a stream; InputError where there are too many for the ranks.
    """
    if ranks is None:
        return 0
    share = STREAMS // ranks.size
    if accumulate > share:
        raise InputError(f"--accumulate {accumulate}: expected {share} at most with {ranks.size} processes")
    return ranks.rank * share
