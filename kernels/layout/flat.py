"""The flat layout: all parameters in one buffer, beside their low-precision copy, task gradients and Adam moments.

Every parameter starts on a chunk boundary, so that a chunk belongs to one parameter, and small tables map a chunk to
its block (embeddings, each layer, ...), which has a learning rate, and to whether it decays. One launch can walk the
whole buffer, a block's Gram matrix is a slice, and a contiguous range is a shard.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concord.kernels.layout.chunks import CHUNK, chunk_tables


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One parameter's place in the buffer.

    name: of the parameter.
    shape: of the parameter.
    start: its first element in the buffer.
    size: its elements.
    block: the number of its block.
    decays: whether its weights decay.
    """

    name: str
    shape: torch.Size
    start: int
    size: int
    block: int
    decays: bool


@dataclass(frozen=True)
class Segment:
    """Consecutive chunks whose gradients a backward finishes together: a layer, the embeddings.

    start: their first element in the buffer.
    used: the element after the last parameter's last chunk.
    stop: the element after their last, which lets them be cut into equal pieces of whole chunks.
    """

    start: int
    used: int
    stop: int


class FlatParameters:
    """Moves the parameters of a model into flat buffers.

    Matrices are read by the forward pass from the compute copy and vectors (biases, LayerNorm) from the fp32 master, as
    autocast would; each parameter's data then is a view of one of them, so loading and saving a model work as ever. An
    op that needs a vector in the compute dtype finds it in the attribute `compute_copy`.

    Args:
        parameters: name -> parameter, on one device, in fp32.
        blocks: name -> block; blocks are numbered in order of appearance.
        tasks: rows of the task gradients. A parameter that only one task uses has an ordinary gradient: tasks is 1
            then, and each parameter's `.grad` is a view of the one row, which autograd adds to.
        compute_dtype: what matrices are read in; fp32 shares the master's memory.
        gradient_dtype: what the task gradients are kept in; fp32 where micro-batches accumulate.
        device: where the buffers lie; None for where the parameters do, of which there then is at least one.
        deposit: True: the ops deposit gradients through the parameters' `task_gradients`; False: `.grad` is used.
        segments: name -> what a backward finishes at once, consecutive like the blocks; None for the blocks.
        pieces: how many equal pieces of whole chunks each segment can be cut into; zeros at its end make it so.

    Attributes:
        master: fp32 [P], the weights; like all that follow, zero between parameters.
        compute: compute_dtype [P], the copy that the forward reads.
        gradients: gradient_dtype [tasks, P], the task gradients.
        momentum: fp32 [P], Adam's first moments.
        variance: fp32 [P], Adam's second moments.
        vectors: fp32, the vectors' values, each on a chunk boundary, after `give_up_states` of a low-precision copy.
        touched: uint8 [tasks, P / CHUNK], 0 only where all of a chunk's gradients of a task are zero, so that kernels
            need not read them. An op that writes a few rows of a table keeps the flags of that table, through its
            parameter's `touched_chunks` [tasks, chunks]; all others stay 1. Whoever writes to such a table's gradients
            by hand sets its flags.
        chunk_block: int32 [P / CHUNK], the block of each chunk.
        chunk_decays: bool [P / CHUNK], whether its weights decay.
        spans: int32 [S, 2], ranges of chunks that lie in one block each and are read by one program.
        span_offsets: int32 [blocks + 1], which spans belong to which block.
        runs: the same chunks as the references walk them.
        segments: where each of them lies, in order.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        blocks: Mapping[str, str],
        *,
        tasks: int,
        compute_dtype: torch.dtype = torch.float32,
        gradient_dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        deposit: bool = True,
        segments: Mapping[str, str] | None = None,
        pieces: int = 1,
    ) -> None:
        self.block_names = list(dict.fromkeys(blocks[name] for name in parameters))
        # Matrices come first within a block, so that a block is two runs: one that decays, and one that does not.
        ordered = sorted(parameters, key=lambda name: (self.block_names.index(blocks[name]), parameters[name].ndim < 2))
        self._parameters = dict(parameters)
        owners = self._lay_out(ordered, blocks, blocks if segments is None else segments, pieces)
        self.size = start = len(owners) * CHUNK
        device = device or next(iter(parameters.values())).device
        self.master = torch.zeros(start, device=device)
        self.compute = self.master
        if compute_dtype != torch.float32:
            self.compute = torch.zeros(start, dtype=compute_dtype, device=device)
        self.gradients = torch.zeros(tasks, start, dtype=gradient_dtype, device=device)
        self.touched = torch.ones(tasks, start // CHUNK, dtype=torch.uint8, device=device)
        self.momentum = torch.zeros(start, device=device)
        self.variance = torch.zeros(start, device=device)
        self.vectors = torch.zeros(0, device=device)
        tables = chunk_tables(
            [owner.block for owner in owners], [owner.decays for owner in owners], len(self.block_names), device
        )
        self.chunk_block, self.chunk_decays, self.runs = tables.chunk_block, tables.chunk_decays, tables.runs
        self.spans, self.span_offsets = tables.spans, tables.span_offsets
        for entry in self.entries:
            self._adopt(parameters[entry.name], entry, deposit)
        self.refresh_compute()

    def view(self, buffer: Tensor, entry: Entry) -> Tensor:
        """The part of `buffer` [..., P] that belongs to `entry`, as [..., *shape]."""
        span = buffer.narrow(-1, entry.start, entry.size)
        return span.view(*buffer.shape[:-1], *entry.shape)

    def values(self) -> dict[str, Tensor]:
        """Name -> fp32 master value, views."""
        return {entry.name: self.view(self.master, entry) for entry in self.entries}

    def refresh_compute(self) -> None:
        """Write the compute copy anew from the master, after values were loaded."""
        if self.compute is not self.master:
            self.compute.copy_(self.master)

    def give_up_states(self) -> None:
        """Keep what the forward reads and the backward writes alone: the moments go, and so does the master where the
        forward reads it for vectors only, whose values then lie in `vectors`, fp32, by themselves.

        It is for parameters whose states lie elsewhere from now on, in pieces.
        """
        self.momentum = self.variance = self.master.new_zeros(0)
        if self.compute is self.master:
            return
        chosen = [entry for entry in self.entries if not entry.decays]
        sizes = [-(-entry.size // CHUNK) * CHUNK for entry in chosen]
        self.vectors = self.master.new_zeros(sum(sizes))
        for entry, own in zip(chosen, self.vectors.split(sizes), strict=True):
            value = own[: entry.size].view(entry.shape)
            value.copy_(self.view(self.master, entry))
            self._parameters[entry.name].data = value
        self.master = self.master.new_zeros(0)

    def _lay_out(
        self, ordered: Sequence[str], blocks: Mapping[str, str], segments: Mapping[str, str], pieces: int
    ) -> list[Entry]:
        """Give every parameter and segment its place; the parameter that each chunk belongs to, the padding at the end
        of a segment to its last one."""
        self.entries: list[Entry] = []
        self.segments: list[Segment] = []
        owners: list[Entry] = []
        for _, names in itertools.groupby(ordered, lambda name: segments[name]):
            start = len(owners) * CHUNK
            for name in names:
                value = self._parameters[name]
                entry = Entry(
                    name=name,
                    shape=value.shape,
                    start=len(owners) * CHUNK,
                    size=value.numel(),
                    block=self.block_names.index(blocks[name]),
                    decays=value.ndim >= 2,
                )
                self.entries.append(entry)
                owners += [entry] * -(-entry.size // CHUNK)
            used = len(owners) * CHUNK
            owners += owners[-1:] * (-(used - start) // CHUNK % pieces)
            self.segments.append(Segment(start, used, len(owners) * CHUNK))
        return owners

    def _adopt(self, parameter: nn.Parameter, entry: Entry, deposit: bool) -> None:
        self.view(self.master, entry).copy_(parameter.detach())
        source = self.compute if parameter.ndim >= 2 and deposit else self.master
        parameter.data = self.view(source, entry)
        if deposit:
            parameter.task_gradients = self.view(self.gradients, entry)
            first = entry.start // CHUNK
            parameter.touched_chunks = self.touched[:, first : first - (-entry.size // CHUNK)]
            if source is not self.compute:
                parameter.compute_copy = self.view(self.compute, entry)
        else:
            parameter.grad = self.view(self.gradients[0], entry)
