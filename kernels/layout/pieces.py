"""One rank's piece of flat parameters: an equal part of every segment, with the states that no other rank has.

A piece has what the Gram matrix and the optimizer's pass read of `FlatParameters`, under the same names, so that both
run on it as they are. Its chunks are those of the segments' parts, one after the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from concord.kernels.layout.chunks import CHUNK, chunk_tables
from concord.kernels.layout.flat import FlatParameters


@dataclass(frozen=True)
class Part:
    """Where a piece's part of a segment lies.

    segment: the elements of the whole segment, in the whole buffer.
    source: those of the part, in the whole buffer.
    place: those of the part, in the piece.
    """

    segment: slice
    source: slice
    place: slice


class FlatPiece:
    """The piece of one rank.

    Args:
        whole: parameters laid out for as many pieces, with their states; they lose these when the piece has its own.
        rank: of the piece, from 0.
        pieces: how many there are.

    Attributes:
        parts: of each segment, in order.
        size: elements of the piece, p; what else is here is as in `FlatParameters` with p in place of P. `compute` is
            the piece's own copy in the compute dtype, which is the master itself in fp32.
    """

    def __init__(self, whole: FlatParameters, rank: int, pieces: int) -> None:
        self.parts: list[Part] = []
        start = 0
        for segment in whole.segments:
            length = (segment.stop - segment.start) // pieces
            first = segment.start + rank * length
            self.parts.append(
                Part(slice(segment.start, segment.stop), slice(first, first + length), slice(start, start + length))
            )
            start += length
        self.size, self.block_names = start, whole.block_names
        device = whole.gradients.device
        self.master = self.of(whole.master)
        self.compute = self.master if whole.compute is whole.master else self.of(whole.compute)
        self.momentum, self.variance = self.of(whole.momentum), self.of(whole.variance)
        self.gradients = whole.gradients.new_zeros(len(whole.gradients), start)
        self.touched = whole.touched.new_ones(len(whole.gradients), start // CHUNK)
        chunks = torch.cat([torch.arange(part.source.start // CHUNK, part.source.stop // CHUNK) for part in self.parts])
        chunks = chunks.to(device)
        tables = chunk_tables(
            whole.chunk_block[chunks].tolist(), whole.chunk_decays[chunks].tolist(), len(self.block_names), device
        )
        self.chunk_block, self.chunk_decays, self.runs = tables.chunk_block, tables.chunk_decays, tables.runs
        self.spans, self.span_offsets = tables.spans, tables.span_offsets
        self.vector_chunks = self._vector_chunks(whole, chunks)
        whole.give_up_states()

    def of(self, buffer: Tensor) -> Tensor:
        """The piece of `buffer` [..., P] or, by chunks, [..., P / CHUNK]: a copy."""
        unit = self.parts[-1].segment.stop // buffer.shape[-1] if self.parts else 1
        return torch.cat([buffer[..., part.source.start // unit : part.source.stop // unit] for part in self.parts], -1)

    def _vector_chunks(self, whole: FlatParameters, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the piece's chunks are vectors', and their places in `FlatParameters.vectors`: int64 [n] each."""
        places = torch.full((whole.size // CHUNK,), -1, dtype=torch.int64)
        count = 0
        for entry in whole.entries:
            if not entry.decays:
                own = -(-entry.size // CHUNK)
                places[entry.start // CHUNK : entry.start // CHUNK + own] = torch.arange(count, count + own)
                count += own
        found = places.to(chunks.device)[chunks]
        mine = (found >= 0).nonzero().flatten()
        return mine, found[mine]
