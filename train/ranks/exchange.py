"""What the ranks of a run exchange in an optimizer step: sums of gradients, Gram matrices and updated weights.

With P parameters in N equal pieces and T tasks, a rank sends (N - 1) / N times T * P elements in the gradients' dtype
as the backward finishes each segment, and as many times P elements in the compute dtype after the update, which the
next forward waits for segment by segment; Gram matrices, flags of touched chunks, heads and the vectors' fp32 values
are small beside that.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.layout.pieces import FlatPiece
from concord.train.ranks.group import Ranks


class Exchange:
    """Of a process that is alone: it has all there is, and sends nothing.

    Args:
        shared: parameters with one gradient a task.

    Attributes:
        own: what this process updates of them.
    """

    def __init__(self, shared: FlatParameters) -> None:
        self.own: FlatParameters | FlatPiece = shared
        self._shared = shared

    def begin_last_backward(self) -> None:
        """The step's last backward of the encoder is about to begin."""

    def reduce(self, private: FlatParameters, *, shared: bool) -> None:
        """Have each gradient's sum over the ranks where it is read: the private ones, and with `shared` those of
        `own`."""

    def add_up(self, tensor: Tensor) -> Tensor:
        """A small tensor's sum over the ranks."""
        return tensor

    def total(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of scalars of one dtype, by name."""
        return values

    def decide(self, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """What `make` gives on one rank, of the shape and dtype of `like`, for all of them to go by."""
        return make()

    def publish(self) -> None:
        """Have all ranks read what they have changed."""
        self._shared.refresh_compute()

    def publish_update(self) -> None:
        """Have all ranks read in their next forward what an optimizer's step has updated, with its compute copy."""

    def settle(self) -> None:
        """Wait for what is on its way: before weights are changed, or read by anything but the encoder's forward."""

    @property
    def size(self) -> int:
        """Elements of the whole, as one process lays it out."""
        return self._shared.size

    def take(self, piece: Tensor, whole: Tensor | None) -> None:
        """Put a saved state's buffer of the shared parameters, [`size`], or this rank's part of it, into `piece`.

        whole: None on the ranks that have not read it.
        """
        piece.copy_(whole)

    def take_same(self, tensor: Tensor, value: Tensor | None) -> None:
        """The same of what all ranks have."""
        tensor.copy_(value)

    def gather_master(self) -> None:
        """Have all fp32 weights where the model is written or read, which is on one rank."""

    def spread_master(self) -> None:
        """Have all ranks take the fp32 weights that one of them has read."""

    def whole(self, buffers: dict[str, Tensor]) -> Iterator[tuple[str, slice, Tensor]]:
        """Buffers of `own`, name -> [p], put together: name, elements of the whole, and their values."""
        for name, buffer in buffers.items():
            yield name, slice(0, len(buffer)), buffer


class RankExchange(Exchange):
    """Of one of several ranks, each of which has a piece of the shared parameters' states.

    Args:
        shared: parameters laid out for as many pieces as there are ranks; they lose their states to the pieces.
        ranks: which exchange.
        encoder: whose backward finishes one segment after the other, the last first.
    """

    def __init__(self, shared: FlatParameters, ranks: Ranks, encoder: nn.Module) -> None:
        super().__init__(shared)
        self._ranks = ranks
        self.own = FlatPiece(shared, ranks.rank, ranks.size)
        self._under_way: list[Any] = []
        self._remaining = len(self.own.parts)  # segments that are not under way yet: those below this number
        self._listening = False
        self._arriving: deque[list[Any]] = deque()  # of each segment that no forward has waited for yet
        self._listen(encoder)

    def begin_last_backward(self) -> None:
        """Send each segment's gradients as soon as this backward has finished it."""
        self._listening = True

    def reduce(self, private: FlatParameters, *, shared: bool) -> None:
        """See `Exchange`."""
        self.settle()  # a rank without an example has had no forward
        self._listening = False
        if shared:
            self._send_down_to(0)
            touched = self._ranks.most(self._shared.touched.clone())
            for work in self._under_way:
                work.wait()
            self.own.touched = self.own.of(touched)
        self._under_way, self._remaining = [], len(self.own.parts)
        if private.size:
            self._ranks.add_up(private.gradients)

    def add_up(self, tensor: Tensor) -> Tensor:
        """See `Exchange`."""
        return self._ranks.add_up(tensor)

    def total(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Exchange`."""
        return dict(zip(values, self._ranks.add_up(torch.stack(list(values.values()))).unbind(), strict=True))

    def decide(self, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """See `Exchange`: it is made on rank 0."""
        return self._ranks.spread(make().contiguous() if self._ranks.rank == 0 else like)

    def publish(self) -> None:
        """See `Exchange`."""
        self.settle()
        if self.own.compute is not self.own.master:
            self.own.compute.copy_(self.own.master)
        self.publish_update()
        self.settle()

    def publish_update(self) -> None:
        """See `Exchange`: the first layers first, each of which the forward waits for when it comes to it."""
        self.settle()
        vectors = []
        if len(self._shared.vectors):
            values, (mine, places) = self._shared.vectors.view(-1, CHUNK).zero_(), self.own.vector_chunks
            values[places] = self.own.master.view(-1, CHUNK)[mine]
            vectors.append(self._ranks.begin_to_add_up(values))  # each of them is zero on all ranks but one
        for part in self.own.parts:
            gathered = self._ranks.gather(self._shared.compute[part.segment], self.own.compute[part.place])
            self._arriving.append([*vectors, gathered])
            vectors = []

    def settle(self) -> None:
        """See `Exchange`."""
        self._await(len(self.own.parts))

    def whole(self, buffers: dict[str, Tensor]) -> Iterator[tuple[str, slice, Tensor]]:
        """See `Exchange`: segment by segment, on rank 0 alone; elements are counted as one process lays them out."""
        for name, buffer in buffers.items():
            start = 0
            for segment, part in zip(self._shared.segments, self.own.parts, strict=True):
                values, used = self._ranks.collect(buffer[part.place]), segment.used - segment.start
                if values is not None:
                    yield name, slice(start, start + used), values[:used]
                start += used

    @property
    def size(self) -> int:
        """See `Exchange`."""
        return sum(segment.used - segment.start for segment in self._shared.segments)

    def take(self, piece: Tensor, whole: Tensor | None) -> None:
        """See `Exchange`: rank 0 has the whole, and hands out segment by segment."""
        self.settle()
        start = 0
        for segment, part in zip(self._shared.segments, self.own.parts, strict=True):
            used, values = segment.used - segment.start, None
            if self._ranks.leads:
                values = piece.new_zeros(segment.stop - segment.start)
                values[:used] = whole[start : start + used]
            self._ranks.deal(piece[part.place], values)
            start += used

    def take_same(self, tensor: Tensor, value: Tensor | None) -> None:
        """See `Exchange`: rank 0 has it."""
        if self._ranks.leads:
            tensor.copy_(value)
        self._ranks.spread(tensor)

    def gather_master(self) -> None:
        """See `Exchange`: into the host's memory of rank 0 where the forward reads a low-precision copy."""
        self.settle()
        if self.own.compute is self.own.master:
            return
        if self._ranks.leads and not len(self._shared.master):
            self._shared.master = torch.zeros(self._shared.size)
        for part in self.own.parts:
            values = self._ranks.collect(self.own.master[part.place])
            if values is not None:
                self._shared.master[part.segment] = values.to(self._shared.master.device)

    def spread_master(self) -> None:
        """See `Exchange`: it is rank 0 that has read them."""
        self.settle()
        for part in self.own.parts:
            values = self._shared.master[part.segment].to(self.own.master.device) if self._ranks.leads else None
            self._ranks.deal(self.own.master[part.place], values)
        self.publish()

    def _send_down_to(self, first: int) -> None:
        """Begin to send the gradients of the segments from `first` on that are not under way yet, the last first."""
        for number in range(self._remaining - 1, first - 1, -1):
            part = self.own.parts[number]
            for whole, piece in zip(self._shared.gradients, self.own.gradients, strict=True):
                self._under_way.append(self._ranks.scatter_sums(piece[part.place], whole[part.segment]))
        self._remaining = min(self._remaining, first)

    def _await(self, segments: int) -> None:
        """Wait for the first so many segments of the last update."""
        arrived = len(self.own.parts) - len(self._arriving)
        for _ in range(segments - arrived if self._arriving else 0):
            for work in self._arriving.popleft():
                work.wait()

    def _listen(self, encoder: nn.Module) -> None:
        """Be told how far a forward or a backward has come. Segments are the embeddings, each layer, and what follows
        them: the output of embeddings or layer k has its gradient once all that comes after it is done."""
        encoder.embeddings.register_forward_pre_hook(lambda module, inputs: self._await(1))
        modules = [encoder.embeddings, *encoder.layers[:-1]]
        for number, module in enumerate(modules, start=1):
            # The last layer may be computed without a call, for first tokens alone, and is read with what follows it.
            needed = number + 1 if module is not modules[-1] else len(self.own.parts)
            module.register_forward_hook(self._hook(number, needed))

    def _hook(self, first: int, needed: int) -> Callable[..., None]:
        """For the module before segment `first`; needed: segments that are read before the next module is called."""

        def told(gradient: Tensor) -> None:
            if self._listening:
                self._send_down_to(first)

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._await(needed)
            if output.requires_grad:
                output.register_hook(told)

        return hook
