"""Attention of batches with sequences longer than a tile among others, in one launch: the Triton kernels and launchers.

As in `short_kernels`, GROUP consecutive sequences are filled into tiles. A sequence longer than a tile stands in their
row as blocks of its own, and takes a place for each forward, and two backward: one for the block's queries, and one for
its keys and values. The t-th of P programs of a group does what is at its places t, t + P, ...: at each, a tile that
short sequences share (`shared_tile_kernels`) or a block (`long_block_kernels`).

P is what the rows of an average group would take were they all of long sequences, and GROUP at least: the host knows
no lengths. A program for each place that a group might fill would be up to four times as many for sequences of 128, of
which nearly all would find nothing; with fewer, a group of uncommonly many places goes round once more.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.attention.configurations import Blocks, block_configuration
from concord.kernels.attention.long_block_kernels import forward_block, key_gradients_block, query_gradients_block
from concord.kernels.attention.shared_tile_kernels import backward_tile, forward_tile, next_stop
from concord.kernels.attention.tiles import score_factor, tile_width
from concord.kernels.attention.tiles_kernels import clear_padding

_GROUP = 8  # sequences that are filled into tiles one after the other; a power of two


@triton.jit
def sequence_ends(cu_seqlens, sequences, GROUP: tl.constexpr):
    """Where each sequence of the program's group ends, int32 [GROUP], 0 for those that a last group lacks."""
    sequence = tl.program_id(0) * GROUP + tl.arange(0, GROUP)
    return tl.load(cu_seqlens + 1 + sequence, mask=sequence < sequences, other=0)


@triton.jit
def next_place(ends, start, place, PARTS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Where the place is that comes `place` places after row `start`, at which a tile or a long sequence begins.

    ends: as `sequence_ends` gives it; PARTS: how many places a block of a long sequence takes.
    Returns the start and stop of its tile or sequence, equal where nothing is left, and how many places of that come
    before it.
    """
    stop = next_stop(ends, start, TILE)
    places = tl.where(stop - start > TILE, PARTS * tl.cdiv(stop - start, BLOCK), 1)
    while (start < stop) & (place >= places):
        place -= places
        start = stop
        stop = next_stop(ends, start, TILE)
        places = tl.where(stop - start > TILE, PARTS * tl.cdiv(stop - start, BLOCK), 1)
    return start, stop, place


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "most", "site"])
def _mixed_attention_forward_kernel(
    qkv,
    out,
    log_sums,
    cu_seqlens,
    sequences,
    tokens,
    most,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The result of one head at some places of a group of sequences; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    out: [tokens, heads, D] like it, written: the result.
    log_sums: fp32 [heads, tokens], written: the softmax's log-sums to the base 2.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens, most: int; no group has more than `most` places.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    head = tl.program_id(1)
    if tl.program_id(0) * GROUP >= sequences:
        start = tl.load(cu_seqlens + sequences)
        across = start.to(tl.int64) * (heads * D) + head * D
        clear_padding(out + across, start, tokens, heads * D, 1, 0, TILE, D, WIDTH)
    else:
        ends = sequence_ends(cu_seqlens, sequences, GROUP)
        start = tl.load(cu_seqlens + tl.program_id(0) * GROUP)
        place = tl.program_id(2)
        for _ in tl.range(tl.program_id(2), most, tl.num_programs(2), disable_licm=True):
            start, stop, place = next_place(ends, start, place, 1, TILE, BLOCK)
            length = stop - start
            if length > TILE:
                forward_block(
                    qkv,
                    out,
                    log_sums,
                    start,
                    length,
                    place * BLOCK,
                    tokens,
                    head,
                    heads,
                    factor,
                    seed,
                    site,
                    threshold,
                    scale,
                    DROPOUT,
                    BLOCK,
                    STEP,
                    D,
                    WIDTH,
                )
            elif length > 0:
                forward_tile(
                    qkv,
                    out,
                    log_sums,
                    start,
                    stop,
                    ends,
                    tokens,
                    head,
                    heads,
                    factor,
                    seed,
                    site,
                    threshold,
                    scale,
                    DROPOUT,
                    TILE,
                    D,
                    WIDTH,
                )
            place += tl.num_programs(2)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "most", "site"])
def _mixed_attention_backward_kernel(
    qkv,
    out,
    d_out,
    log_sums,
    d_qkv,
    cu_seqlens,
    sequences,
    tokens,
    most,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradient of qkv of one head at some places of a group of sequences; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    out: [tokens, heads, D] like it, of the forward.
    d_out: like out, its gradient.
    log_sums: fp32 [heads, tokens], of the forward.
    d_qkv: like qkv, written.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens, most: int; no group has more than `most` places.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    head = tl.program_id(1)
    if tl.program_id(0) * GROUP >= sequences:
        start = tl.load(cu_seqlens + sequences)
        stride = 3 * heads * D
        target = d_qkv + start.to(tl.int64) * stride + head * D
        clear_padding(target, start, tokens, stride, 3, heads * D, TILE, D, WIDTH)
    else:
        start = tl.load(cu_seqlens + tl.program_id(0) * GROUP)
        place = tl.program_id(2)
        for _ in tl.range(tl.program_id(2), most, tl.num_programs(2), disable_licm=True):
            # Loaded at each place: kept beside the products, they would take registers that there are not.
            ends = sequence_ends(cu_seqlens, sequences, GROUP)
            start, stop, place = next_place(ends, start, place, 2, TILE, BLOCK)
            length = stop - start
            blocks = tl.cdiv(length, BLOCK)
            if length > TILE:
                if place < blocks:
                    query_gradients_block(
                        qkv,
                        out,
                        d_out,
                        log_sums,
                        d_qkv,
                        start,
                        length,
                        place * BLOCK,
                        tokens,
                        head,
                        heads,
                        factor,
                        seed,
                        site,
                        threshold,
                        scale,
                        DROPOUT,
                        BLOCK,
                        STEP,
                        D,
                        WIDTH,
                    )
                else:
                    key_gradients_block(
                        qkv,
                        out,
                        d_out,
                        log_sums,
                        d_qkv,
                        start,
                        length,
                        (place - blocks) * BLOCK,
                        tokens,
                        head,
                        heads,
                        factor,
                        seed,
                        site,
                        threshold,
                        scale,
                        DROPOUT,
                        BLOCK,
                        STEP,
                        D,
                        WIDTH,
                    )
            elif length > 0:
                backward_tile(
                    qkv,
                    d_out,
                    log_sums,
                    d_qkv,
                    start,
                    stop,
                    ends,
                    tokens,
                    head,
                    heads,
                    factor,
                    seed,
                    site,
                    threshold,
                    scale,
                    DROPOUT,
                    TILE,
                    D,
                    WIDTH,
                )
            place += tl.num_programs(2)


def _places(tokens: int, sequences: int, max_length: int, parts: int, block: int) -> tuple[int, int]:
    """The programs of a group, and the places that a group may have.

    parts: how many places a block takes.
    """
    most = _GROUP * parts * triton.cdiv(max_length, block)
    average = triton.cdiv(parts * tokens, block * max(1, triton.cdiv(sequences, _GROUP)))
    return min(most, max(_GROUP, average)), most


def _options(qkv: Tensor, blocks: Blocks, dropout: bool) -> dict[str, Any]:
    """The constants of either kernel."""
    options = {
        "DROPOUT": dropout,
        "GROUP": _GROUP,
        "TILE": blocks.tile,
        "BLOCK": blocks.rows,
        "STEP": blocks.step,
        "D": qkv.shape[-1],
        "WIDTH": tile_width(qkv),
        "num_warps": blocks.warps,
        "num_stages": 1,
    }
    return options | ({"maxnreg": blocks.registers} if blocks.registers else {})


def mixed_forward(
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write the result to `out` and the softmax's log-sums to `log_sums`, and zero padding: see `attention_forward`.

    qkv: contiguous, of heads that `short_tile` has a tile for; dropout: as `kernel_arguments` gives it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    blocks = block_configuration(qkv).forward
    programs, most = _places(tokens, sequences, max_length, 1, blocks.rows)
    options = _options(qkv, blocks, dropout[0] is not None)
    _mixed_attention_forward_kernel[(triton.cdiv(sequences, _GROUP) + 1, heads, programs)](
        qkv, out, log_sums, cu_seqlens, sequences, tokens, most, heads, score_factor(size), *dropout, **options
    )


def mixed_backward(
    d_out: Tensor,
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    d_qkv: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write the gradient of qkv to `d_qkv`, and zero padding: see `attention_backward`.

    d_out, qkv, d_qkv: contiguous, of heads that `short_tile` has a tile for; out, log_sums: of the forward; dropout: as
    `kernel_arguments` gives it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    blocks = block_configuration(qkv).backward
    programs, most = _places(tokens, sequences, max_length, 2, blocks.rows)
    options = _options(qkv, blocks, dropout[0] is not None)
    _mixed_attention_backward_kernel[(triton.cdiv(sequences, _GROUP) + 1, heads, programs)](
        qkv,
        out,
        d_out,
        log_sums,
        d_qkv,
        cu_seqlens,
        sequences,
        tokens,
        most,
        heads,
        score_factor(size),
        *dropout,
        **options,
    )
