"""The Triton kernels that gather a packed batch, and what launches them: see `kernels.gather` for the op."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_SEQUENCES, _TOKENS = 512, 128  # sequences, and tokens of one, that a program reads at once


@triton.jit(do_not_specialize=["sequences"])
def _gather_boundaries_kernel(chosen, corpus_cu_seqlens, cu_seqlens, first, sequences, BLOCK: tl.constexpr):
    """Where each chosen sequence begins in the batch; one program.

    chosen: int64 [sequences], their numbers in the corpus.
    corpus_cu_seqlens: int64 [sequences of the corpus + 1], where each of its sequences begins.
    cu_seqlens: int32 [sequences + 1], written: where each begins in the batch.
    first: int64 [sequences], written: the same, as an index of rows.
    sequences: int, that are chosen.
    """
    total = 0
    tl.store(cu_seqlens, total)
    for start in range(0, sequences, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < sequences
        source = corpus_cu_seqlens + tl.load(chosen + index, mask=inside, other=0)
        length = tl.load(source + 1, mask=inside, other=0) - tl.load(source, mask=inside, other=0)
        length = length.to(tl.int32)
        stop = total + tl.cumsum(length, 0)
        tl.store(cu_seqlens + 1 + index, stop, mask=inside)
        tl.store(first + index, (stop - length).to(tl.int64), mask=inside)
        total += tl.sum(length, 0)


@triton.jit(do_not_specialize=["sequences", "tokens"])
def _gather_tokens_kernel(
    chosen,
    corpus_ids,
    corpus_segments,
    corpus_cu_seqlens,
    cu_seqlens,
    sequence_offsets,
    ids,
    positions,
    segments,
    token_offsets,
    sequences,
    tokens,
    tasks,
    BLOCK: tl.constexpr,
):
    """The tokens of one sequence, or in the last program the padding's zeros and where each task's tokens begin.

    chosen: int64 [sequences], their numbers in the corpus.
    corpus_ids: int32 [tokens of the corpus].
    corpus_segments: uint8 [tokens of the corpus].
    corpus_cu_seqlens: int64 [sequences of the corpus + 1], where each of its sequences begins.
    cu_seqlens: int32 [sequences + 1], where each chosen one begins in the batch.
    sequence_offsets: int32 [tasks + 1], which of them belong to which task.
    ids: int32 [tokens], written.
    positions: int32 [tokens], written: a token's place in its sequence.
    segments: int32 [tokens], written.
    token_offsets: int32 [tasks + 1], written: where each task's tokens begin.
    sequences, tokens, tasks: int; tokens: rows of the batch, padding included.
    """
    sequence = tl.program_id(0)
    start = tl.load(cu_seqlens + sequence)
    place = tl.arange(0, BLOCK)
    if sequence == sequences:
        for task in range(tasks + 1):
            tl.store(token_offsets + task, tl.load(cu_seqlens + tl.load(sequence_offsets + task)))
        for first in range(start, tokens, BLOCK):
            inside = first + place < tokens
            zeros = place * 0
            tl.store(ids + first + place, zeros, mask=inside)
            tl.store(positions + first + place, zeros, mask=inside)
            tl.store(segments + first + place, zeros, mask=inside)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        source = tl.load(corpus_cu_seqlens + tl.load(chosen + sequence))
        for first in range(0, length, BLOCK):
            position = first + place
            inside = position < length
            tl.store(ids + start + position, tl.load(corpus_ids + source + position, mask=inside, other=0), mask=inside)
            tl.store(positions + start + position, position, mask=inside)
            kind = tl.load(corpus_segments + source + position, mask=inside, other=0).to(tl.int32)
            tl.store(segments + start + position, kind, mask=inside)


def gather_into(
    chosen: Tensor,
    sequence_offsets: Tensor,
    *,
    corpus_ids: Tensor,
    corpus_segments: Tensor,
    corpus_cu_seqlens: Tensor,
    ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    cu_seqlens: Tensor,
    first: Tensor,
    token_offsets: Tensor,
) -> None:
    """Write the batch of the `chosen` sequences: see `gather_tokens`.

    corpus_*: the tensors of a `Corpus`; ids and on: those of a `GatheredTokens`, which are written.
    """
    sequences = len(chosen)
    with torch.cuda.device_of(chosen):
        _gather_boundaries_kernel[(1,)](chosen, corpus_cu_seqlens, cu_seqlens, first, sequences, BLOCK=_SEQUENCES)
        _gather_tokens_kernel[(sequences + 1,)](
            chosen,
            corpus_ids,
            corpus_segments,
            corpus_cu_seqlens,
            cu_seqlens,
            sequence_offsets,
            ids,
            positions,
            segments,
            token_offsets,
            sequences,
            len(ids),
            len(sequence_offsets) - 1,
            BLOCK=_TOKENS,
            num_warps=1,
        )
