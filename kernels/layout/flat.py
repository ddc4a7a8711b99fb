"""The flat layout: all parameters in one buffer, beside their low-precision copy, task gradients and Adam moments.

Every parameter starts on a chunk boundary, so that a chunk belongs to one parameter, and small tables map a chunk to
its block (embeddings, each layer, ...), which has a learning rate, and to whether it decays. One launch can walk the
whole buffer, a block's Gram matrix is a slice, and a contiguous range is a shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

CHUNK = 1024  # elements; small enough to waste little on biases, large enough for one program's tile

_SPANS = 1024  # how many to aim at: about eight for each multiprocessor of a large GPU
_LONGEST_SPAN = 64  # chunks: fp32 sums over more elements would lose digits


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
class Run:
    """Consecutive chunks that share block and decay.

    start: their first element in the buffer.
    stop: the element after their last.
    block: the number of their block.
    decays: whether their weights decay.
    """

    start: int
    stop: int
    block: int
    decays: bool


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

    Attributes:
        master: fp32 [P], the weights; like all that follow, zero between parameters.
        compute: compute_dtype [P], the copy that the forward reads.
        gradients: gradient_dtype [tasks, P], the task gradients.
        momentum: fp32 [P], Adam's first moments.
        variance: fp32 [P], Adam's second moments.
        touched: uint8 [tasks, P / CHUNK], 0 only where all of a chunk's gradients of a task are zero, so that kernels
            need not read them. An op that writes a few rows of a table keeps the flags of that table, through its
            parameter's `touched_chunks` [tasks, chunks]; all others stay 1. Whoever writes to such a table's gradients
            by hand sets its flags.
        chunk_block: int32 [P / CHUNK], the block of each chunk.
        chunk_decays: bool [P / CHUNK], whether its weights decay.
        spans: int32 [S, 2], ranges of chunks that lie in one block each and are read by one program.
        span_offsets: int32 [blocks + 1], which spans belong to which block.
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
    ) -> None:
        self.block_names = list(dict.fromkeys(blocks[name] for name in parameters))
        # Matrices come first within a block, so that a block is two runs: one that decays, and one that does not.
        ordered = sorted(parameters, key=lambda name: (self.block_names.index(blocks[name]), parameters[name].ndim < 2))
        self.entries: list[Entry] = []
        start = 0
        for name in ordered:
            value = parameters[name]
            entry = Entry(
                name=name,
                shape=value.shape,
                start=start,
                size=value.numel(),
                block=self.block_names.index(blocks[name]),
                decays=value.ndim >= 2,
            )
            self.entries.append(entry)
            start += -(-entry.size // CHUNK) * CHUNK
        self.size = start
        device = device or next(iter(parameters.values())).device
        self.master = torch.zeros(start, device=device)
        self.compute = self.master
        if compute_dtype != torch.float32:
            self.compute = torch.zeros(start, dtype=compute_dtype, device=device)
        self.gradients = torch.zeros(tasks, start, dtype=gradient_dtype, device=device)
        self.touched = torch.ones(tasks, start // CHUNK, dtype=torch.uint8, device=device)
        self.momentum = torch.zeros(start, device=device)
        self.variance = torch.zeros(start, device=device)
        self._build_tables(device)
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

    def _build_tables(self, device: torch.device) -> None:
        chunk_entries = [entry for entry in self.entries for _ in range(-(-entry.size // CHUNK))]
        self.chunk_block = torch.tensor([entry.block for entry in chunk_entries], dtype=torch.int32, device=device)
        self.chunk_decays = torch.tensor([entry.decays for entry in chunk_entries], dtype=torch.bool, device=device)
        self._build_spans([entry.block for entry in chunk_entries], device)
        self.runs: list[Run] = []
        for index, entry in enumerate(chunk_entries):
            start = index * CHUNK
            last = self.runs[-1] if self.runs else None
            if last is not None and (last.block, last.decays) == (entry.block, entry.decays):
                start = last.start
                self.runs.pop()
            self.runs.append(Run(start, (index + 1) * CHUNK, entry.block, entry.decays))

    def _build_spans(self, chunk_blocks: list[int], device: torch.device) -> None:
        """Cut each block's chunks, which are consecutive, into spans that give a large GPU enough programs."""
        longest = min(_LONGEST_SPAN, -(-len(chunk_blocks) // _SPANS))
        spans, offsets = [], [0]
        _, starts, counts = np.unique(chunk_blocks, return_index=True, return_counts=True)
        for first, count in zip(starts.tolist(), counts.tolist(), strict=True):
            spans += [[first + at, first + min(at + longest, count)] for at in range(0, count, longest)]
            offsets.append(len(spans))
        self.spans = torch.tensor(spans, dtype=torch.int32, device=device).view(-1, 2)
        self.span_offsets = torch.tensor(offsets, dtype=torch.int32, device=device)

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
