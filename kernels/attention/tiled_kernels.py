"""Attention of sequences of any length, tiled, for heads of more than 64 elements: the Triton kernels and launchers.

Forward and dq walk the keys for a tile of queries, dk and dv walk the queries for a tile of keys (Dao, 2023,
FlashAttention-2), each in programs of their own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.attention.configurations import tiled_configuration
from concord.kernels.attention.tiles import score_factor, tile_width
from concord.kernels.attention.tiles_kernels import LN_2, clear_padding, kept_bits, kept_mask, load_rows, store_rows


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _tiled_attention_forward_kernel(
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The result of one head for QUERIES queries of one sequence; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    out: [tokens, heads, D] like it, written: the result.
    log_sums: fp32 [heads, tokens], written: the softmax's log-sums to the base 2.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(cu_seqlens + sequence)
    stride = 3 * heads * D
    target = out + start.to(tl.int64) * (heads * D) + head * D
    if sequence == sequences:
        clear_padding(target, start, tokens, heads * D, 1, 0, QUERIES, D, WIDTH)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        first_query = block * QUERIES
        if first_query < length:
            q_base = qkv + start.to(tl.int64) * stride + head * D
            k_base, v_base = q_base + heads * D, q_base + 2 * heads * D
            row = first_query + tl.arange(0, QUERIES)
            q = load_rows(q_base, first_query, length, stride, QUERIES, D, WIDTH)
            key = tl.arange(0, KEYS)
            top = tl.full([QUERIES], float("-inf"), tl.float32)
            total = tl.zeros([QUERIES], tl.float32)
            result = tl.zeros([QUERIES, WIDTH], tl.float32)
            for first_key in range(0, length, KEYS):
                # Before the products: drawing random numbers beside them would take more registers than there are.
                if DROPOUT:
                    bits = kept_bits(seed, start + row, head, heads, first_key, site, threshold, KEYS)
                k = load_rows(k_base, first_key, length, stride, KEYS, D, WIDTH)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                scores = tl.where((first_key + key < length)[None, :], scores, float("-inf"))
                higher = tl.maximum(top, tl.max(scores, 1))
                p = tl.exp2(scores - higher[:, None])
                shrink = tl.exp2(top - higher)
                total = total * shrink + tl.sum(p, 1)
                if DROPOUT:
                    p = tl.where(kept_mask(bits, KEYS), p, 0.0)
                v = load_rows(v_base, first_key, length, stride, KEYS, D, WIDTH)
                result = tl.dot(p.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")
                top = higher
            result *= (scale / total)[:, None]
            store_rows(target, first_query, length, heads * D, result, QUERIES, D, WIDTH)
            tl.store(log_sums + head * tokens + start + row, top + tl.log2(total), mask=row < length)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _tiled_attention_query_gradients_kernel(
    qkv,
    out,
    d_out,
    log_sums,
    deltas,
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradient of QUERIES queries of one sequence and head; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    out: [tokens, heads, D] like it, of the forward.
    d_out: like out, its gradient.
    log_sums: fp32 [heads, tokens], of the forward.
    deltas: fp32 [heads, tokens], written: sum(out * d_out) of each query.
    d_qkv: like qkv, written: the queries' part and, at padding, all of it.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(cu_seqlens + sequence)
    stride = 3 * heads * D
    target = d_qkv + start.to(tl.int64) * stride + head * D
    if sequence == sequences:
        clear_padding(target, start, tokens, stride, 3, heads * D, QUERIES, D, WIDTH)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        first_query = block * QUERIES
        if first_query < length:
            base = qkv + start.to(tl.int64) * stride + head * D
            across = start.to(tl.int64) * (heads * D) + head * D
            row = first_query + tl.arange(0, QUERIES)
            q = load_rows(base, first_query, length, stride, QUERIES, D, WIDTH)
            upstream = load_rows(d_out + across, first_query, length, heads * D, QUERIES, D, WIDTH)
            result = load_rows(out + across, first_query, length, heads * D, QUERIES, D, WIDTH)
            # sum_j p_j dp_j is sum(out * d_out), whatever was dropped.
            delta = tl.sum(result.to(tl.float32) * upstream.to(tl.float32), 1)
            tl.store(deltas + head * tokens + start + row, delta, mask=row < length)
            log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=0.0)
            d_q = tl.zeros([QUERIES, WIDTH], tl.float32)
            key = tl.arange(0, KEYS)
            for first_key in range(0, length, KEYS):
                # Before the products: drawing random numbers beside them would take more registers than there are.
                if DROPOUT:
                    bits = kept_bits(seed, start + row, head, heads, first_key, site, threshold, KEYS)
                k = load_rows(base + heads * D, first_key, length, stride, KEYS, D, WIDTH)
                v = load_rows(base + 2 * heads * D, first_key, length, stride, KEYS, D, WIDTH)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                p = tl.where((first_key + key < length)[None, :], tl.exp2(scores - log_sum[:, None]), 0.0)
                d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
                if DROPOUT:
                    d_p = tl.where(kept_mask(bits, KEYS), d_p * scale, 0.0)
                d_scores = p * (d_p - delta[:, None])
                d_q = tl.dot(d_scores.to(k.dtype), k, d_q, input_precision="ieee")
            d_q *= factor * LN_2
            store_rows(target, first_query, length, stride, d_q, QUERIES, D, WIDTH)


@triton.jit(do_not_specialize=["tokens", "heads", "site"])
def _tiled_attention_key_gradients_kernel(
    qkv,
    d_out,
    log_sums,
    deltas,
    d_qkv,
    cu_seqlens,
    tokens,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    OF_KEYS: tl.constexpr,
    OF_VALUES: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradients of KEYS keys (OF_KEYS) and of their values (OF_VALUES) of one sequence and head.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    d_out: [tokens, heads, D] like it, the gradient of the result.
    log_sums: fp32 [heads, tokens], of the forward.
    deltas: fp32 [heads, tokens], that the queries' kernel has written.
    d_qkv: like qkv, written: the parts of the keys and of the values.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    tokens, heads, factor: int, int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - start
    first_key = block * KEYS
    stride = 3 * heads * D
    if first_key < length:
        base = qkv + start.to(tl.int64) * stride + head * D
        across = start.to(tl.int64) * (heads * D) + head * D
        k = load_rows(base + heads * D, first_key, length, stride, KEYS, D, WIDTH)
        v = load_rows(base + 2 * heads * D, first_key, length, stride, KEYS, D, WIDTH)
        d_k = tl.zeros([KEYS, WIDTH], tl.float32)
        d_v = tl.zeros([KEYS, WIDTH], tl.float32)
        for first_query in range(0, length, QUERIES):
            row = first_query + tl.arange(0, QUERIES)
            if DROPOUT:
                bits = kept_bits(seed, start + row, head, heads, first_key, site, threshold, KEYS)
            q = load_rows(base, first_query, length, stride, QUERIES, D, WIDTH)
            upstream = load_rows(d_out + across, first_query, length, heads * D, QUERIES, D, WIDTH)
            # Queries beyond the end: a log-sum of infinity makes their probabilities zero.
            log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=float("inf"))
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
            p = tl.exp2(scores - log_sum[:, None])
            if OF_KEYS:
                delta = tl.load(deltas + head * tokens + start + row, mask=row < length, other=0.0)
                d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
            dropped = p
            if DROPOUT:
                kept = kept_mask(bits, KEYS)
                dropped = tl.where(kept, p, 0.0)
                if OF_KEYS:
                    d_p = tl.where(kept, d_p * scale, 0.0)
            if OF_VALUES:
                d_v = tl.dot(tl.trans(dropped.to(upstream.dtype)), upstream, d_v, input_precision="ieee")
            if OF_KEYS:
                d_scores = (p * (d_p - delta[:, None])).to(q.dtype)
                d_k = tl.dot(tl.trans(d_scores), q, d_k, input_precision="ieee")
        target = d_qkv + start.to(tl.int64) * stride + head * D
        if OF_KEYS:
            d_k *= factor * LN_2
            store_rows(target + heads * D, first_key, length, stride, d_k, KEYS, D, WIDTH)
        if OF_VALUES:
            d_v *= scale
            store_rows(target + 2 * heads * D, first_key, length, stride, d_v, KEYS, D, WIDTH)


def tiled_forward(
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write the result to `out` and the softmax's log-sums to `log_sums`: see `attention_forward`.

    qkv: contiguous; dropout: as `kernel_arguments` gives it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    tiles = tiled_configuration(qkv).forward
    _tiled_attention_forward_kernel[(sequences + 1, heads, max(1, triton.cdiv(max_length, tiles.queries)))](
        qkv,
        out,
        log_sums,
        cu_seqlens,
        sequences,
        tokens,
        heads,
        score_factor(size),
        *dropout,
        DROPOUT=dropout[0] is not None,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        D=size,
        WIDTH=tile_width(qkv),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def tiled_backward(
    d_out: Tensor,
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    d_qkv: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write the gradient of qkv to `d_qkv`: see `attention_backward`.

    d_out, qkv, d_qkv: contiguous; out, log_sums: of the forward; dropout: as there.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    deltas = torch.empty_like(log_sums)
    sizes = (tokens, heads, score_factor(size), *dropout)
    constants = {"DROPOUT": dropout[0] is not None, "D": size, "WIDTH": tile_width(qkv)}
    _, tiles, key_tiles, apart = tiled_configuration(qkv)
    _tiled_attention_query_gradients_kernel[(sequences + 1, heads, max(1, triton.cdiv(max_length, tiles.queries)))](
        qkv,
        out,
        d_out,
        log_sums,
        deltas,
        d_qkv,
        cu_seqlens,
        sequences,
        *sizes,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        **constants,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    for of_keys, of_values in ((True, False), (False, True)) if apart else ((True, True),):
        _tiled_attention_key_gradients_kernel[(sequences, heads, max(1, triton.cdiv(max_length, key_tiles.keys)))](
            qkv,
            d_out,
            log_sums,
            deltas,
            d_qkv,
            cu_seqlens,
            *sizes,
            OF_KEYS=of_keys,
            OF_VALUES=of_values,
            QUERIES=key_tiles.queries,
            KEYS=key_tiles.keys,
            **constants,
            num_warps=key_tiles.warps,
            num_stages=key_tiles.stages,
        )
