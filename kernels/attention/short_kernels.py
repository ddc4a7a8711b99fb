"""Attention of short sequences, several in a tile: the Triton kernels and what launches them.

A tile holds up to TILE consecutive packed rows of one head, which are as many whole sequences as fit; a query sees the
keys of its own. All keys of a query are there at once, so the forward needs no running softmax, and one backward
program yields dq, dk and dv from operands that it reads once. In the products the sequences of a tile meet as zeros: a
value that is not finite may make NaN of all of them, and of no others.

GROUP consecutive sequences are filled into tiles from the first on, and the t-th of their programs walks past t tiles
to find its own. A sequence that is longer than a tile stands in their row as a tile of its own, which is left to
`kernels.attention.tiled_kernels`. There are as many programs as sequences; those for which nothing is left end at once.
So the host need not know how many tiles there will be, and no program has two to do while a multiprocessor has none.
Without a loop over tiles a program also takes fewer registers, and more of them run at once.

Dropout is addressed by a key's place in its sequence, eight places a call of the generator, while a sequence begins
anywhere in a tile. So what is kept for a query is gathered into one bit a place, and these are shifted as one number to
where its sequence begins: no more calls than for a tile of one sequence, and threads exchange one number a query.
"""

import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.attention.tiles import score_factor, shortest_side, tile_width
from concord.kernels.attention.tiles_kernels import LN_2, clear_padding, kept_bits, kept_mask, load_rows, store_rows

_LEAST_TILE = 32  # rows, for tiny sequences to share
_MOST_TILE = 64  # rows; the backward of 128 would spill
# The most elements of a tile, by bytes an element: without matrix instructions, fp32 operands stand in registers.
_MOST_ELEMENTS = {2: 64 * 64, 4: 64 * 32}
_WARPS = {2: {32: 2, 64: 4}, 4: {32: 8, 64: 8}}  # by bytes an element, then by tile
_GROUP = 8  # sequences that are filled into tiles one after the other; a power of two


def short_tile(qkv: Tensor, max_length: int) -> int:
    """The rows of a tile, which holds sequences of up to as many tokens and their gradients: what the longest sequence
    needs, or the most that there can be; 0 where heads are too large for any."""
    width = tile_width(qkv)
    most = min(_MOST_TILE, _MOST_ELEMENTS[qkv.element_size()] // width)
    least = max(_LEAST_TILE, shortest_side(qkv))
    return 0 if width > 64 else min(most, max(least, triton.next_power_of_2(max_length)))


@triton.jit
def _stop(ends, start, TILE: tl.constexpr):
    """Where the last sequence ends that fits into a tile from row `start` on, or the next one where none does."""
    stop = tl.max(tl.where(ends <= start + TILE, ends, start), 0)
    following = tl.min(tl.where(ends > start, ends, 2147483647), 0)
    return tl.where((stop == start) & (following < 2147483647), following, stop)


@triton.jit
def own_tile(cu_seqlens, sequences, GROUP: tl.constexpr, TILE: tl.constexpr):
    """The packed rows of the program's tile, as their start and stop (equal where nothing is left for it, and more than
    TILE apart where a sequence is too long for it), and where each sequence of its group ends, int32 [GROUP], 0 for
    those that a last group lacks."""
    first = tl.program_id(0) * GROUP
    sequence = first + tl.arange(0, GROUP)
    ends = tl.load(cu_seqlens + 1 + sequence, mask=sequence < sequences, other=0)
    start = tl.load(cu_seqlens + first)
    for _ in range(tl.program_id(2)):
        start = _stop(ends, start, TILE)
    return start, _stop(ends, start, TILE), ends


@triton.jit
def _first_rows(ends, start, row):
    """The row where the sequence of each `row` of a tile begins, like `row`; start: the tile's."""
    return tl.max(tl.where(ends[None, :] <= row[:, None], ends[None, :], start), 1)


@triton.jit
def _kept(seed, row, first, start, head, heads, site, threshold, TILE: tl.constexpr):
    """Which probabilities `Dropout.attention_mask` keeps in the tile from row `start` on: bool [TILE, TILE].

    row, first: int32 [TILE], each query's packed row, and where its sequence begins. What a key of another sequence
    finds there means nothing.
    """
    return kept_mask(kept_bits(seed, row, head, heads, 0, site, threshold, TILE) << (first - start), TILE)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _short_attention_forward_kernel(
    qkv,
    out,
    log_sums,
    cu_seqlens,
    sequences,
    tokens,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The result of one head in one tile of short sequences; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    out: [tokens, heads, D] like it, written: the result.
    log_sums: fp32 [heads, tokens], written: the softmax's log-sums to the base 2.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    head = tl.program_id(1)
    stride = 3 * heads * D
    if tl.program_id(0) * GROUP >= sequences:
        start = tl.load(cu_seqlens + sequences)
        across = start.to(tl.int64) * (heads * D) + head * D
        clear_padding(out + across, start, tokens, heads * D, 1, 0, TILE, D, WIDTH)
    else:
        start, stop, ends = own_tile(cu_seqlens, sequences, GROUP, TILE)
        length = stop - start
        if (length > 0) & (length <= TILE):
            base = qkv + start.to(tl.int64) * stride + head * D
            across = start.to(tl.int64) * (heads * D) + head * D
            row = start + tl.arange(0, TILE)
            first = _first_rows(ends, start, row)
            q = load_rows(base, 0, length, stride, TILE, D, WIDTH)
            k = load_rows(base + heads * D, 0, length, stride, TILE, D, WIDTH)
            v = load_rows(base + 2 * heads * D, 0, length, stride, TILE, D, WIDTH)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
            # Rows beyond `stop` see themselves too, and so give no NaN.
            scores = tl.where(first[:, None] == first[None, :], scores, float("-inf"))
            top = tl.max(scores, 1)
            p = tl.exp2(scores - top[:, None])
            total = tl.sum(p, 1)
            if DROPOUT:
                kept = _kept(seed, row, first, start, head, heads, site, threshold, TILE)
                p = tl.where(kept, p, 0.0)
            result = tl.dot(p.to(v.dtype), v, input_precision="ieee")
            if DROPOUT:
                result *= (scale / total)[:, None]
            else:
                # A division: a product with the inverses would spill on sm_86.
                result /= total[:, None]
            store_rows(out + across, 0, length, heads * D, result, TILE, D, WIDTH)
            tl.store(log_sums + head * tokens + row, top + tl.log2(total), mask=row < stop)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _short_attention_backward_kernel(
    qkv,
    d_out,
    log_sums,
    d_qkv,
    cu_seqlens,
    sequences,
    tokens,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradient of qkv of one head in one tile of short sequences; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    d_out: [tokens, heads, D] like it, the gradient of the result.
    log_sums: fp32 [heads, tokens], of the forward.
    d_qkv: like qkv, written.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    head = tl.program_id(1)
    stride = 3 * heads * D
    if tl.program_id(0) * GROUP >= sequences:
        start = tl.load(cu_seqlens + sequences)
        target = d_qkv + start.to(tl.int64) * stride + head * D
        clear_padding(target, start, tokens, stride, 3, heads * D, TILE, D, WIDTH)
    else:
        start, stop, ends = own_tile(cu_seqlens, sequences, GROUP, TILE)
        length = stop - start
        if (length > 0) & (length <= TILE):
            base = qkv + start.to(tl.int64) * stride + head * D
            row = start + tl.arange(0, TILE)
            first = _first_rows(ends, start, row)
            q = load_rows(base, 0, length, stride, TILE, D, WIDTH)
            k = load_rows(base + heads * D, 0, length, stride, TILE, D, WIDTH)
            v = load_rows(base + 2 * heads * D, 0, length, stride, TILE, D, WIDTH)
            across = start.to(tl.int64) * (heads * D) + head * D
            upstream = load_rows(d_out + across, 0, length, heads * D, TILE, D, WIDTH)
            log_sum = tl.load(log_sums + head * tokens + row, mask=row < stop, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
            # Rows beyond `stop` see themselves, where all operands are zero.
            p = tl.where(first[:, None] == first[None, :], tl.exp2(scores - log_sum[:, None]), 0.0)
            d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
            dropped = p
            if DROPOUT:
                kept = _kept(seed, row, first, start, head, heads, site, threshold, TILE)
                dropped = tl.where(kept, p, 0.0)
                d_p = tl.where(kept, d_p * scale, 0.0)
            target = d_qkv + start.to(tl.int64) * stride + head * D
            d_v = tl.dot(tl.trans(dropped.to(upstream.dtype)), upstream, input_precision="ieee") * scale
            store_rows(target + 2 * heads * D, 0, length, stride, d_v, TILE, D, WIDTH)
            d_scores = (p * (d_p - tl.sum(p * d_p, 1)[:, None]) * (factor * LN_2)).to(q.dtype)
            d_q = tl.dot(d_scores, k, input_precision="ieee")
            store_rows(target, 0, length, stride, d_q, TILE, D, WIDTH)
            d_k = tl.dot(tl.trans(d_scores), q, input_precision="ieee")
            store_rows(target + heads * D, 0, length, stride, d_k, TILE, D, WIDTH)


def _grid(sequences: int, heads: int) -> tuple[int, int, int]:
    """The programs: groups, and one more that clears the padding; heads; tiles that a group may fill."""
    return triton.cdiv(sequences, _GROUP) + 1, heads, max(1, min(sequences, _GROUP))


def _options(qkv: Tensor, tile: int, dropout: bool) -> dict[str, int | bool]:
    """The constants of either kernel."""
    size = qkv.shape[-1]
    return {
        "DROPOUT": dropout,
        "GROUP": _GROUP,
        "TILE": tile,
        "D": size,
        "WIDTH": tile_width(qkv),
        "num_warps": _WARPS[qkv.element_size()][tile],
        "num_stages": 1,
    }


def short_forward(
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    cu_seqlens: Tensor,
    tile: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write the result of sequences that fit a tile to `out` and `log_sums`, and zero padding: see `attention_forward`.

    qkv: contiguous; tile: by `short_tile`; dropout: as `kernel_arguments` gives it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    options = _options(qkv, tile, dropout[0] is not None)
    _short_attention_forward_kernel[_grid(sequences, heads)](
        qkv, out, log_sums, cu_seqlens, sequences, tokens, heads, score_factor(size), *dropout, **options
    )


def short_backward(
    d_out: Tensor,
    qkv: Tensor,
    log_sums: Tensor,
    d_qkv: Tensor,
    cu_seqlens: Tensor,
    tile: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write what sequences that fit a tile have in the gradient of qkv to `d_qkv`, and zero padding: see
    `attention_backward`.

    d_out, qkv, d_qkv: contiguous; log_sums: of the forward; tile: by `short_tile`; dropout: as `kernel_arguments` gives
    it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    options = _options(qkv, tile, dropout[0] is not None)
    _short_attention_backward_kernel[_grid(sequences, heads)](
        qkv, d_out, log_sums, d_qkv, cu_seqlens, sequences, tokens, heads, score_factor(size), *dropout, **options
    )
