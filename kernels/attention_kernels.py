"""The Triton kernels of attention, and what launches them: see `kernels.attention` for the op.

Short sequences, which fit one tile, take one program a sequence and head: the forward needs no running softmax, and one
backward program yields dq, dk and dv. Longer ones are tiled: forward and dq walk the keys for a tile of queries, dk and
dv walk the queries for a tile of keys (Dao, 2023, FlashAttention-2). Only the softmax's log-sum is kept; scores and
dropout are computed anew in the backward. No atomics anywhere.

The forward reads 3 and writes 1 row of heads * d elements a token, the backward reads 5 and writes 3, beside 4 * L^2 *
d and 10 * L^2 * d operations a head and sequence. On an H200 (4.3 TB/s, 790 TFLOP/s in bf16), 4,096 tokens of 768
elements take at least 5.9 us forward and 11.7 us backward for their bytes; for the products a tenth of that where
sequences are of 30 tokens.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import architecture, launcher
from kernels.dropout import dropout_factors

_LOG2_E = 1.4426950408889634
_LONGEST_SHORT = 64  # tokens of a sequence that is one tile; the backward of 128 would spill
# Its most elements, by bytes an element: without matrix instructions, fp32 operands stand in registers.
_LARGEST_SHORT = {2: 64 * 64, 4: 64 * 32}


class _Tiles(NamedTuple):
    """Queries and keys a tile, warps, and stages of the loop's loads."""

    queries: int
    keys: int
    warps: int
    stages: int


class _Configuration(NamedTuple):
    """Tiles of the tiled kernels."""

    forward: _Tiles
    query_gradients: _Tiles
    key_gradients: _Tiles


# For 16 bits: by architecture, then by head size up to which they serve. Compiled without spills for each; none was
# timed yet.
_TILED = {
    "hip": {
        64: _Configuration(_Tiles(64, 32, 4, 1), _Tiles(64, 32, 4, 1), _Tiles(32, 64, 4, 1)),
        128: _Configuration(_Tiles(64, 32, 4, 1), _Tiles(32, 32, 4, 1), _Tiles(32, 32, 4, 1)),
    },
    8: {
        64: _Configuration(_Tiles(64, 64, 4, 2), _Tiles(64, 32, 4, 2), _Tiles(32, 64, 4, 2)),
        128: _Configuration(_Tiles(64, 32, 4, 2), _Tiles(32, 32, 4, 2), _Tiles(32, 32, 4, 2)),
    },
    9: {
        64: _Configuration(_Tiles(64, 64, 4, 2), _Tiles(64, 64, 4, 2), _Tiles(32, 64, 4, 2)),
        128: _Configuration(_Tiles(64, 64, 4, 2), _Tiles(64, 32, 4, 2), _Tiles(32, 64, 8, 2)),
    },
}
# For fp32, on every architecture: the tiles above would spill kilobytes a thread.
_TILED_SINGLE = {
    32: _Configuration(_Tiles(64, 32, 8, 1), _Tiles(64, 32, 8, 1), _Tiles(64, 32, 8, 1)),
    64: _Configuration(_Tiles(32, 32, 8, 1), _Tiles(32, 32, 8, 1), _Tiles(32, 32, 8, 1)),
    128: _Configuration(_Tiles(16, 16, 8, 1), _Tiles(16, 16, 8, 1), _Tiles(32, 16, 8, 1)),
}
_SHORT_WARPS = {2: {16: 1, 32: 2, 64: 4}, 4: {16: 4, 32: 8, 64: 8}}  # by bytes an element, then by tile


def _short_tiles(qkv: Tensor, max_length: int) -> _Tiles | None:
    """The tile that holds a whole sequence and its gradients, or None where there is none."""
    size, width = qkv.element_size(), _width(qkv.shape[-1])
    tile = max(16, triton.next_power_of_2(max_length))
    if tile > _LONGEST_SHORT or width > 64 or tile * width > _LARGEST_SHORT[size]:
        return None
    return _Tiles(tile, tile, _SHORT_WARPS[size][tile], 1)


def _tiled(qkv: Tensor) -> _Configuration:
    single = qkv.element_size() == 4
    table = _TILED_SINGLE if single else _TILED.get(architecture(qkv.device), _TILED[8])
    width = _width(qkv.shape[-1])
    return table[min((limit for limit in table if limit >= width), default=max(table))]


def _width(head_size: int) -> int:
    """The columns of a tile: products need a power of two, 16 at least."""
    return max(16, triton.next_power_of_2(head_size))


@triton.jit
def _factors(seed, row, head, heads, key_start, site, threshold, scale, KEYS: tl.constexpr):
    """`Dropout.attention_mask`: fp32 [queries, KEYS], for queries at packed `row`s, keys from `key_start` on."""
    call = tl.arange(0, KEYS // 8)[None, :] + key_start // 8
    low = (row * heads + head)[:, None] + call * 0
    return dropout_factors(tl.load(seed), low, call + low * 0, site, threshold, scale)


@triton.jit
def _rows(base, first, length, stride, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """Rows `first` and on of one head of one sequence, [ROWS, WIDTH]; zero beyond `length` rows and D columns."""
    row, column = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (row < length)[:, None] & (column < D)[None, :]
    return tl.load(base + row[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def _store(base, first, length, stride, values, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    row, column = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (row < length)[:, None] & (column < D)[None, :]
    tl.store(base + row[:, None] * stride + column[None, :], values, mask=mask)


@triton.jit
def _clear_padding(
    base, start, tokens, stride, parts, part_stride, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr
):
    """Zero one head's rows after the last sequence, which a batch of fixed size may have; programs share them."""
    block, blocks = tl.program_id(2), tl.num_programs(2)
    zeros = tl.zeros([ROWS, WIDTH], base.dtype.element_ty)
    for first in range(block * ROWS, tokens - start, blocks * ROWS):
        for part in range(parts):
            _store(base + part * part_stride, first, tokens - start, stride, zeros, ROWS, D, WIDTH)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _forward_kernel(
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
    SHORT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(cu_seqlens + sequence)
    stride = 3 * heads * D
    target = out + start.to(tl.int64) * (heads * D) + head * D
    if sequence == sequences:
        _clear_padding(target, start, tokens, heads * D, 1, 0, QUERIES, D, WIDTH)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        first_query = block * QUERIES
        if first_query < length:
            q_base = qkv + start.to(tl.int64) * stride + head * D
            k_base, v_base = q_base + heads * D, q_base + 2 * heads * D
            row = first_query + tl.arange(0, QUERIES)
            q = _rows(q_base, first_query, length, stride, QUERIES, D, WIDTH)
            key = tl.arange(0, KEYS)
            if SHORT:
                k = _rows(k_base, 0, length, stride, KEYS, D, WIDTH)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                scores = tl.where((key < length)[None, :], scores, float("-inf"))
                top = tl.max(scores, 1)
                p = tl.exp2(scores - top[:, None])
                total = tl.sum(p, 1)
                if DROPOUT:
                    p *= _factors(seed, start + row, head, heads, 0, site, threshold, scale, KEYS)
                v = _rows(v_base, 0, length, stride, KEYS, D, WIDTH)
                result = tl.dot(p.to(v.dtype), v, input_precision="ieee")
            else:
                top = tl.full([QUERIES], float("-inf"), tl.float32)
                total = tl.zeros([QUERIES], tl.float32)
                result = tl.zeros([QUERIES, WIDTH], tl.float32)
                for first_key in range(0, length, KEYS):
                    k = _rows(k_base, first_key, length, stride, KEYS, D, WIDTH)
                    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                    scores = tl.where((first_key + key < length)[None, :], scores, float("-inf"))
                    higher = tl.maximum(top, tl.max(scores, 1))
                    p = tl.exp2(scores - higher[:, None])
                    shrink = tl.exp2(top - higher)
                    total = total * shrink + tl.sum(p, 1)
                    if DROPOUT:
                        p *= _factors(seed, start + row, head, heads, first_key, site, threshold, scale, KEYS)
                    v = _rows(v_base, first_key, length, stride, KEYS, D, WIDTH)
                    result = tl.dot(p.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")
                    top = higher
            result /= total[:, None]
            _store(target, first_query, length, heads * D, result.to(out.dtype.element_ty), QUERIES, D, WIDTH)
            tl.store(log_sums + head * tokens + start + row, top + tl.log2(total), mask=row < length)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _short_backward_kernel(
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
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    sequence, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(cu_seqlens + sequence)
    stride = 3 * heads * D
    target = d_qkv + start.to(tl.int64) * stride + head * D
    if sequence == sequences:
        _clear_padding(target, start, tokens, stride, 3, heads * D, TILE, D, WIDTH)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        if length > 0:
            base = qkv + start.to(tl.int64) * stride + head * D
            row = tl.arange(0, TILE)
            q = _rows(base, 0, length, stride, TILE, D, WIDTH)
            k = _rows(base + heads * D, 0, length, stride, TILE, D, WIDTH)
            v = _rows(base + 2 * heads * D, 0, length, stride, TILE, D, WIDTH)
            upstream = _rows(d_out + start.to(tl.int64) * (heads * D) + head * D, 0, length, heads * D, TILE, D, WIDTH)
            log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
            valid = (row < length)[:, None] & (row < length)[None, :]
            p = tl.where(valid, tl.exp2(scores - log_sum[:, None]), 0.0)
            d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
            dropped = p
            if DROPOUT:
                mask = _factors(seed, start + row, head, heads, 0, site, threshold, scale, TILE)
                dropped = p * mask
                d_p *= mask
            d_v = tl.dot(tl.trans(dropped.to(upstream.dtype)), upstream, input_precision="ieee")
            _store(target + 2 * heads * D, 0, length, stride, d_v.to(d_qkv.dtype.element_ty), TILE, D, WIDTH)
            d_scores = p * (d_p - tl.sum(p * d_p, 1)[:, None]) * (factor / 1.4426950408889634)
            d_scores = d_scores.to(q.dtype)
            d_q = tl.dot(d_scores, k, input_precision="ieee")
            _store(target, 0, length, stride, d_q.to(d_qkv.dtype.element_ty), TILE, D, WIDTH)
            d_k = tl.dot(tl.trans(d_scores), q, input_precision="ieee")
            _store(target + heads * D, 0, length, stride, d_k.to(d_qkv.dtype.element_ty), TILE, D, WIDTH)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _query_gradients_kernel(
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
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(cu_seqlens + sequence)
    stride = 3 * heads * D
    target = d_qkv + start.to(tl.int64) * stride + head * D
    if sequence == sequences:
        _clear_padding(target, start, tokens, stride, 3, heads * D, QUERIES, D, WIDTH)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        first_query = block * QUERIES
        if first_query < length:
            base = qkv + start.to(tl.int64) * stride + head * D
            across = start.to(tl.int64) * (heads * D) + head * D
            row = first_query + tl.arange(0, QUERIES)
            q = _rows(base, first_query, length, stride, QUERIES, D, WIDTH)
            upstream = _rows(d_out + across, first_query, length, heads * D, QUERIES, D, WIDTH)
            result = _rows(out + across, first_query, length, heads * D, QUERIES, D, WIDTH)
            # sum_j p_j dp_j is sum(out * d_out), whatever was dropped.
            delta = tl.sum(result.to(tl.float32) * upstream.to(tl.float32), 1)
            tl.store(deltas + head * tokens + start + row, delta, mask=row < length)
            log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=0.0)
            d_q = tl.zeros([QUERIES, WIDTH], tl.float32)
            key = tl.arange(0, KEYS)
            for first_key in range(0, length, KEYS):
                k = _rows(base + heads * D, first_key, length, stride, KEYS, D, WIDTH)
                v = _rows(base + 2 * heads * D, first_key, length, stride, KEYS, D, WIDTH)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                p = tl.where((first_key + key < length)[None, :], tl.exp2(scores - log_sum[:, None]), 0.0)
                d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
                if DROPOUT:
                    d_p *= _factors(seed, start + row, head, heads, first_key, site, threshold, scale, KEYS)
                d_scores = p * (d_p - delta[:, None])
                d_q = tl.dot(d_scores.to(k.dtype), k, d_q, input_precision="ieee")
            d_q *= factor / 1.4426950408889634
            _store(target, first_query, length, stride, d_q.to(d_qkv.dtype.element_ty), QUERIES, D, WIDTH)


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _key_gradients_kernel(
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - start
    first_key = block * KEYS
    stride = 3 * heads * D
    if first_key < length:
        base = qkv + start.to(tl.int64) * stride + head * D
        across = start.to(tl.int64) * (heads * D) + head * D
        k = _rows(base + heads * D, first_key, length, stride, KEYS, D, WIDTH)
        v = _rows(base + 2 * heads * D, first_key, length, stride, KEYS, D, WIDTH)
        d_k = tl.zeros([KEYS, WIDTH], tl.float32)
        d_v = tl.zeros([KEYS, WIDTH], tl.float32)
        for first_query in range(0, length, QUERIES):
            row = first_query + tl.arange(0, QUERIES)
            q = _rows(base, first_query, length, stride, QUERIES, D, WIDTH)
            upstream = _rows(d_out + across, first_query, length, heads * D, QUERIES, D, WIDTH)
            # Queries beyond the end: a log-sum of infinity makes their probabilities zero.
            log_sum = tl.load(log_sums + head * tokens + start + row, mask=row < length, other=float("inf"))
            delta = tl.load(deltas + head * tokens + start + row, mask=row < length, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
            p = tl.exp2(scores - log_sum[:, None])
            d_p = tl.dot(upstream, tl.trans(v), input_precision="ieee")
            dropped = p
            if DROPOUT:
                mask = _factors(seed, start + row, head, heads, first_key, site, threshold, scale, KEYS)
                dropped = p * mask
                d_p *= mask
            d_v = tl.dot(tl.trans(dropped.to(upstream.dtype)), upstream, d_v, input_precision="ieee")
            d_scores = (p * (d_p - delta[:, None])).to(q.dtype)
            d_k = tl.dot(tl.trans(d_scores), q, d_k, input_precision="ieee")
        d_k *= factor / 1.4426950408889634
        target = d_qkv + start.to(tl.int64) * stride + head * D
        _store(target + heads * D, first_key, length, stride, d_k.to(d_qkv.dtype.element_ty), KEYS, D, WIDTH)
        _store(target + 2 * heads * D, first_key, length, stride, d_v.to(d_qkv.dtype.element_ty), KEYS, D, WIDTH)


def _new_forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    tokens, _, heads, _ = qkv.shape
    return torch.empty_like(qkv[:, 0]).contiguous(), torch.empty(heads, tokens, dtype=torch.float32, device=qkv.device)


@launcher(lambda qkv, *rest: _new_forward(qkv))
def attention_forward(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, seed: Tensor | None, site: int, threshold: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The result [tokens, heads, d] like qkv, and the base-2 log-sums of the softmax, fp32 [heads, tokens].

    qkv: [tokens, 3, heads, d]; cu_seqlens: int32 [sequences + 1]; max_length: of the longest sequence; then the
    dropout as `kernel_arguments` gives it.
    """
    qkv = qkv.contiguous()
    tokens, _, heads, size = qkv.shape
    out, log_sums = _new_forward(qkv)
    sequences, width = len(cu_seqlens) - 1, _width(size)
    short = _short_tiles(qkv, max_length)
    tiles = short or _tiled(qkv).forward
    _forward_kernel[(sequences + 1, heads, max(1, triton.cdiv(max_length, tiles.queries)))](
        qkv,
        out,
        log_sums,
        cu_seqlens,
        sequences,
        tokens,
        heads,
        size**-0.5 * _LOG2_E,
        seed,
        site,
        threshold,
        scale,
        DROPOUT=seed is not None,
        SHORT=short is not None,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        D=size,
        WIDTH=width,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out, log_sums


@launcher(lambda d_out, qkv, *rest: torch.empty_like(qkv))
def attention_backward(
    d_out: Tensor,
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    seed: Tensor | None,
    site: int,
    threshold: int,
    scale: float,
) -> Tensor:
    """The gradient of qkv, [tokens, 3, heads, d] like it. Arguments as those and the results of the forward."""
    qkv, d_out = qkv.contiguous(), d_out.contiguous()
    tokens, _, heads, size = qkv.shape
    d_qkv = torch.empty_like(qkv)
    sequences, width = len(cu_seqlens) - 1, _width(size)
    sizes = (tokens, heads, size**-0.5 * _LOG2_E, seed, site, threshold, scale)
    constants = {"DROPOUT": seed is not None, "D": size, "WIDTH": width}
    short = _short_tiles(qkv, max_length)
    if short:
        _short_backward_kernel[(sequences + 1, heads, 1)](
            qkv,
            d_out,
            log_sums,
            d_qkv,
            cu_seqlens,
            sequences,
            *sizes,
            TILE=short.keys,
            **constants,
            num_warps=short.warps,
            num_stages=short.stages,
        )
        return d_qkv
    deltas = torch.empty_like(log_sums)
    _, tiles, key_tiles = _tiled(qkv)
    _query_gradients_kernel[(sequences + 1, heads, max(1, triton.cdiv(max_length, tiles.queries)))](
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
    _key_gradients_kernel[(sequences, heads, max(1, triton.cdiv(max_length, key_tiles.keys)))](
        qkv,
        d_out,
        log_sums,
        deltas,
        d_qkv,
        cu_seqlens,
        *sizes,
        QUERIES=key_tiles.queries,
        KEYS=key_tiles.keys,
        **constants,
        num_warps=key_tiles.warps,
        num_stages=key_tiles.stages,
    )
    return d_qkv
