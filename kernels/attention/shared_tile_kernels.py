"""What a Triton program does for a tile that short sequences share; `short_kernels` and `mixed_kernels` launch it.

A tile holds up to TILE consecutive packed rows of one head, which are as many whole sequences as fit; a query sees the
keys of its own. All keys of a query are there at once, so the forward needs no running softmax, and one backward
program yields dq, dk and dv from operands that it reads once. In the products the sequences of a tile meet as zeros: a
value that is not finite may make NaN of all of them, and of no others.

Dropout is addressed by a key's place in its sequence, eight places a call of the generator, while a sequence begins
anywhere in a tile. So what is kept for a query is gathered into one bit a place, and these are shifted as one number to
where its sequence begins: no more calls than for a tile of one sequence, and threads exchange one number a query.
"""

import triton
import triton.language as tl

from concord.kernels.attention.tiles_kernels import LN_2, kept_bits, kept_mask, load_rows, store_rows


@triton.jit
def next_stop(ends, start, TILE: tl.constexpr):
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
        start = next_stop(ends, start, TILE)
    return start, next_stop(ends, start, TILE), ends


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


@triton.jit
def forward_tile(
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
    DROPOUT: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the result and the log-sums of one head in one tile.

    start, stop, ends: as `own_tile` gives them; head: which one. All others: as in the kernels.
    """
    stride = 3 * heads * D
    length = stop - start
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


@triton.jit
def backward_tile(
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
    DROPOUT: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the gradient of qkv of one head in one tile. Arguments: see `forward_tile`."""
    stride = 3 * heads * D
    length = stop - start
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
