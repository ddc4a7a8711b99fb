"""What a Triton program does for a block of a sequence that is longer than a tile; `mixed_kernels` launches it.

A block is up to BLOCK consecutive rows of one sequence and head. As queries it walks the sequence's keys, STEP at a
time, and as keys its queries (Dao, 2023, FlashAttention-2). What is the same in every step is computed in each
(`disable_licm`): kept throughout a loop, it would take some 60 registers a thread.
"""

import triton
import triton.language as tl

from concord.kernels.attention.tiles_kernels import (
    LN_2,
    kept_bits,
    kept_mask,
    kept_mask_of_keys,
    load_rows,
    store_rows,
)


@triton.jit
def forward_block(
    qkv,
    out,
    log_sums,
    start,
    length,
    first_query,
    tokens,
    head,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the result of a block of queries, and its log-sums.

    start, length: of the sequence, in packed rows; first_query: the block's first place in it; head: which one. All
    others: as in `mixed_kernels`.
    """
    stride = 3 * heads * D
    base = qkv + start.to(tl.int64) * stride + head * D
    row = first_query + tl.arange(0, BLOCK)
    q = load_rows(base, first_query, length, stride, BLOCK, D, WIDTH)
    key = tl.arange(0, STEP)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    result = tl.zeros([BLOCK, WIDTH], tl.float32)
    for first_key in tl.range(0, length, STEP, disable_licm=True):
        # Before the products: drawing random numbers beside them would take more registers than there are.
        if DROPOUT:
            bits = kept_bits(seed, start + row, head, heads, first_key, site, threshold, STEP)
        k = load_rows(base + heads * D, first_key, length, stride, STEP, D, WIDTH)
        v = load_rows(base + 2 * heads * D, first_key, length, stride, STEP, D, WIDTH)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
        scores = tl.where((first_key + key < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p = tl.where(kept_mask(bits, STEP), p, 0.0)
        result = tl.dot(p.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")
        top = higher
    if DROPOUT:
        result *= (scale / total)[:, None]
    else:
        result /= total[:, None]
    across = start.to(tl.int64) * (heads * D) + head * D
    store_rows(out + across, first_query, length, heads * D, result, BLOCK, D, WIDTH)
    tl.store(log_sums + head * tokens + start + row, top + tl.log2(total), mask=row < length)


@triton.jit
def query_gradients_block(
    qkv,
    out,
    d_out,
    log_sums,
    d_qkv,
    start,
    length,
    first_query,
    tokens,
    head,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the gradients of a block of queries. Arguments: see `forward_block`."""
    stride = 3 * heads * D
    base = qkv + start.to(tl.int64) * stride + head * D
    across = start.to(tl.int64) * (heads * D) + head * D
    row = first_query + tl.arange(0, BLOCK)
    q = load_rows(base, first_query, length, stride, BLOCK, D, WIDTH)
    upstream = load_rows(d_out + across, first_query, length, heads * D, BLOCK, D, WIDTH)
    result = load_rows(out + across, first_query, length, heads * D, BLOCK, D, WIDTH)
    # sum_j p_j dp_j is sum(out * d_out), whatever was dropped.
    delta = tl.sum(result.to(tl.float32) * upstream.to(tl.float32), 1)
    log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=0.0)
    d_q = tl.zeros([BLOCK, WIDTH], tl.float32)
    key = tl.arange(0, STEP)
    for first_key in tl.range(0, length, STEP, disable_licm=True):
        # Before the products, as in the forward.
        if DROPOUT:
            bits = kept_bits(seed, start + row, head, heads, first_key, site, threshold, STEP)
        k = load_rows(base + heads * D, first_key, length, stride, STEP, D, WIDTH)
        v = load_rows(base + 2 * heads * D, first_key, length, stride, STEP, D, WIDTH)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
        p = tl.where((first_key + key < length)[None, :], tl.exp2(scores - log_sum[:, None]), 0.0)
        d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
        if DROPOUT:
            d_p = tl.where(kept_mask(bits, STEP), d_p * scale, 0.0)
        d_scores = p * (d_p - delta[:, None])
        d_q = tl.dot(d_scores.to(k.dtype), k, d_q, input_precision="ieee")
    d_q *= factor * LN_2
    target = d_qkv + start.to(tl.int64) * stride + head * D
    store_rows(target, first_query, length, stride, d_q, BLOCK, D, WIDTH)


@triton.jit
def _pairs(keys, queries, TRANSPOSED: tl.constexpr):
    """The product of each query with each key: fp32 [queries, keys], or TRANSPOSED."""
    left, right = (keys, queries) if TRANSPOSED else (queries, keys)
    return tl.dot(left, tl.trans(right), input_precision="ieee")


@triton.jit
def _by_query(values, TRANSPOSED: tl.constexpr):
    """One value a query, as `_pairs` has them."""
    return values[None, :] if TRANSPOSED else values[:, None]


@triton.jit
def _sums_of_keys(weights, rows, sums, TRANSPOSED: tl.constexpr):
    """`sums` [keys, WIDTH] and each key's sum of the queries' `rows`, weighted by `weights`, shaped as `_pairs` are."""
    return tl.dot(weights if TRANSPOSED else tl.trans(weights), rows, sums, input_precision="ieee")


@triton.jit
def key_gradients_block(
    qkv,
    out,
    d_out,
    log_sums,
    d_qkv,
    start,
    length,
    first_key,
    tokens,
    head,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the gradients of a block of keys and of their values. Arguments: see `forward_block`."""
    # As [keys, queries], no product waits for a transposed matrix; but what there is for each query then stands in as
    # many registers of a thread as it holds columns, which wide steps do not leave.
    TRANSPOSED: tl.constexpr = STEP < BLOCK
    stride = 3 * heads * D
    base = qkv + start.to(tl.int64) * stride + head * D
    across = start.to(tl.int64) * (heads * D) + head * D
    k = load_rows(base + heads * D, first_key, length, stride, BLOCK, D, WIDTH)
    v = load_rows(base + 2 * heads * D, first_key, length, stride, BLOCK, D, WIDTH)
    d_k = tl.zeros([BLOCK, WIDTH], tl.float32)
    d_v = tl.zeros([BLOCK, WIDTH], tl.float32)
    for first_query in tl.range(0, length, STEP, disable_licm=True):
        row = first_query + tl.arange(0, STEP)
        # Before the products, as in the forward.
        if DROPOUT:
            bits = kept_bits(seed, start + row, head, heads, first_key, site, threshold, BLOCK)
        upstream = load_rows(d_out + across, first_query, length, heads * D, STEP, D, WIDTH)
        result = load_rows(out + across, first_query, length, heads * D, STEP, D, WIDTH)
        # Once more for each block of keys: programs that passed it on would have to run one after the other.
        delta = tl.sum(result.to(tl.float32) * upstream.to(tl.float32), 1)
        q = load_rows(base, first_query, length, stride, STEP, D, WIDTH)
        # Queries beyond the end: a log-sum of infinity makes their probabilities zero.
        log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=float("inf"))
        p = tl.exp2(_pairs(k, q, TRANSPOSED) * factor - _by_query(log_sum, TRANSPOSED))
        dropped = p
        if DROPOUT:
            kept = kept_mask_of_keys(bits, BLOCK) if TRANSPOSED else kept_mask(bits, BLOCK)
            dropped = tl.where(kept, p, 0.0)
        d_v = _sums_of_keys(dropped.to(upstream.dtype), upstream, d_v, TRANSPOSED)
        d_p = _pairs(v, upstream, TRANSPOSED)
        if DROPOUT:
            d_p = tl.where(kept, d_p * scale, 0.0)
        d_scores = (p * (d_p - _by_query(delta, TRANSPOSED))).to(q.dtype)
        d_k = _sums_of_keys(d_scores, q, d_k, TRANSPOSED)
    target = d_qkv + start.to(tl.int64) * stride + head * D
    d_k *= factor * LN_2
    store_rows(target + heads * D, first_key, length, stride, d_k, BLOCK, D, WIDTH)
    d_v *= scale
    store_rows(target + 2 * heads * D, first_key, length, stride, d_v, BLOCK, D, WIDTH)
