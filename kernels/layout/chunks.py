"""Which block each chunk of a flat buffer belongs to, and which chunks one program reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024  # elements; small enough to waste little on biases, large enough for one program's tile

_SPANS = 1024  # how many to aim at: about eight for each multiprocessor of a large GPU
_LONGEST_SPAN = 64  # chunks: fp32 sums over more elements would lose digits


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


@dataclass(frozen=True, kw_only=True)
class ChunkTables:
    """What is known of a buffer's chunks.

    chunk_block: int32 [P / CHUNK], the block of each chunk.
    chunk_decays: bool [P / CHUNK], whether its weights decay.
    spans: int32 [S, 2], ranges of chunks that lie in one block each and are read by one program.
    span_offsets: int32 [blocks + 1], which spans belong to which block.
    runs: the same chunks as the references walk them.
    """

    chunk_block: Tensor
    chunk_decays: Tensor
    spans: Tensor
    span_offsets: Tensor
    runs: list[Run]


def chunk_tables(blocks: Sequence[int], decays: Sequence[bool], count: int, device: torch.device) -> ChunkTables:
    """The tables of a buffer whose chunks belong to `blocks`, numbers below `count` that never fall.

    decays: of each chunk; a block may have no chunk in the buffer.
    """
    runs: list[Run] = []
    for index, (block, own) in enumerate(zip(blocks, decays, strict=True)):
        start = index * CHUNK
        if runs and (runs[-1].block, runs[-1].decays) == (block, own):
            start = runs.pop().start
        runs.append(Run(start, (index + 1) * CHUNK, block, own))
    spans, offsets = _spans(blocks, count)
    return ChunkTables(
        chunk_block=torch.tensor(blocks, dtype=torch.int32, device=device),
        chunk_decays=torch.tensor(decays, dtype=torch.bool, device=device),
        spans=torch.tensor(spans, dtype=torch.int32, device=device).view(-1, 2),
        span_offsets=torch.tensor(offsets, dtype=torch.int32, device=device),
        runs=runs,
    )


def _spans(blocks: Sequence[int], count: int) -> tuple[list[list[int]], list[int]]:
    """Cut each block's chunks, which are consecutive, into spans that give a large GPU enough programs."""
    longest = max(1, min(_LONGEST_SPAN, -(-len(blocks) // _SPANS)))
    spans, offsets, first = [], [0], 0
    for chunks in np.bincount(np.asarray(blocks, dtype=np.int64), minlength=count).tolist():
        spans += [[first + at, first + min(at + longest, chunks)] for at in range(0, chunks, longest)]
        offsets.append(len(spans))
        first += chunks
    return spans, offsets
