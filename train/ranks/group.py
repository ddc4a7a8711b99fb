"""The processes of one run, and what they send to each other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from concord.bert.errors import InputError
from concord.kernels.dropout import STREAMS

_LONG = timedelta(hours=12)  # that one process of a machine may take for a download or the tokens of a large set

Group = Any  # torch.distributed.ProcessGroup, which a build of torch without processes does not have
Value = TypeVar("Value")


@dataclass(frozen=True)
class _Ended:
    """In place of a value: rank 0 has ended with this code before it had one, as after --help."""

    code: Any


@dataclass(frozen=True)
class Ranks:
    """One process among those of a run. Every method is called on all ranks alike.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        group: which sends what lies on the run's device.
        host: which sends what lies in the host's memory.
        first_here: whether this process does what one process of a machine is to do for the others.
    """

    rank: int
    size: int
    group: Group
    host: Group
    first_here: bool = True

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints, draws and writes."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """Put the sum over the ranks into `tensor`, on the run's device, and return it."""
        dist.all_reduce(tensor, dist.ReduceOp.SUM, self.group)
        return tensor

    def begin_to_add_up(self, tensor: Tensor) -> Any:
        """Begin the same; what is returned waits for it."""
        return dist.all_reduce(tensor, dist.ReduceOp.SUM, self.group, async_op=True)

    def most(self, tensor: Tensor) -> Tensor:
        """Put the maximum over the ranks into `tensor`, on the run's device, and return it."""
        dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group)
        return tensor

    def spread(self, tensor: Tensor) -> Tensor:
        """Put what rank 0 has there into `tensor`, on the run's device, and return it."""
        dist.broadcast(tensor, 0, self.group)
        return tensor

    def scatter_sums(self, piece: Tensor, whole: Tensor) -> Any:
        """Begin to put this rank's piece of the sum over the ranks of `whole` [size * n] into `piece` [n]; what is
        returned waits for it."""
        scatter = _called("reduce_scatter_single", "reduce_scatter_tensor")
        return scatter(piece, whole, group=self.group, async_op=True)

    def gather(self, whole: Tensor, piece: Tensor) -> Any:
        """Begin to put the ranks' `piece` [n, ...], one after the other, into `whole` [size * n, ...]; what is returned
        waits for it."""
        return _called("all_gather_single", "all_gather_into_tensor")(whole, piece, group=self.group, async_op=True)

    def collect(self, piece: Tensor) -> Tensor | None:
        """On rank 0 the pieces of all ranks, one after the other, [size * n] on the device; None on the others."""
        whole = torch.empty(self.size * len(piece), dtype=piece.dtype, device=piece.device) if self.leads else None
        dist.gather(piece.contiguous(), None if whole is None else list(whole.chunk(self.size)), 0, self.group)
        return whole

    def deal(self, piece: Tensor, whole: Tensor | None) -> None:
        """The opposite: put this rank's part of rank 0's `whole` [size * n] on the device into `piece` [n]."""
        dist.scatter(piece, None if whole is None else list(whole.chunk(self.size)), 0, self.group)

    def add_up_on_host(self, values: np.ndarray) -> np.ndarray:
        """The sum over the ranks of `values`, in the host's memory."""
        found = torch.from_numpy(np.ascontiguousarray(values)).clone()
        dist.all_reduce(found, dist.ReduceOp.SUM, self.host)
        return found.numpy()

    def ask_all(self, asked: Tensor) -> Any:
        """Begin to put the maximum over the ranks into `asked`, int64 in the host's memory; what is returned waits for
        it."""
        return dist.all_reduce(asked, dist.ReduceOp.MAX, self.host, async_op=True)

    def tell(self, make: Callable[[], Value]) -> Value:
        """What `make` gives on rank 0, where alone it is called. Where it ends the process, all ranks end so."""
        told: list[Any] = [None]
        if self.leads:
            try:
                told = [make()]
            except SystemExit as end:
                dist.broadcast_object_list([_Ended(end.code)], 0, self.host)
                raise
        dist.broadcast_object_list(told, 0, self.host)
        if isinstance(told[0], _Ended):
            raise SystemExit(told[0].code)
        return told[0]

    @contextmanager
    def one_of_a_machine_first(self) -> Iterator[None]:
        """Within this context one process of each machine does what is to be done, and then the others, which find its
        files; nothing that all ranks call may be in it."""
        if not self.first_here:
            self._meet()
        yield
        if self.first_here:
            self._meet()

    def _meet(self) -> None:
        dist.monitored_barrier(self.host, timeout=_LONG)


def _called(name: str, before: str) -> Callable[..., Any]:
    """A function of torch.distributed's by the name that torch 2.13 has given it, where it warns of the old one, or by
    that, which alone torch 2.11 has."""
    return getattr(dist, name, None) or getattr(dist, before)


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
