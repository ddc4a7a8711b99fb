"""The Triton kernels of attention whose only queries are the first tokens: see `kernels.attention.op` for the op.

One program a sequence and head, which holds the one query and walks the keys: vector work with a running softmax, no
matrix products. The forward reads 2 rows of heads * d elements a token; the backward reads them again and writes as
many. On an H200 at 4.3 TB/s, 4,096 tokens of 768 bf16 elements take at least 2.9 us forward and 5.9 us backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.attention.tiles_kernels import clear_padding
from concord.kernels.dispatch import launcher
from concord.kernels.dropout_kernels import dropout_factors

_ELEMENTS = 2048  # elements of keys that a program reads at once


@triton.jit
def _factors(seed, row, head, heads, first_key, site, threshold, scale, KEYS: tl.constexpr):
    """The first token's row of `Dropout.attention_mask`: fp32 [KEYS]."""
    call = tl.arange(0, KEYS // 8)[None, :] + first_key // 8
    low = call * 0 + (row * heads + head)
    return tl.reshape(dropout_factors(tl.load(seed), low, call, site, threshold, scale), [KEYS])


@triton.jit(do_not_specialize=["heads", "site"])
def _first_token_forward_kernel(
    q,
    kv,
    out,
    exact,
    log_sums,
    cu_seqlens,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The result of one sequence's first token and one head.

    q: [sequences, heads, D] in the compute dtype, the first tokens' queries.
    kv: [tokens, 2, heads, D] in the same dtype.
    out: like q, written: the result.
    exact: fp32, shaped like q, written: the result before it is rounded.
    log_sums: fp32 [sequences, heads], written: the softmax's log-sums.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    heads, factor: int, float; factor: what a query's product with a key is multiplied by.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - start
    column = tl.arange(0, WIDTH)
    own = (sequence * heads + head).to(tl.int64) * D + column
    query = tl.load(q + own, mask=column < D, other=0.0).to(tl.float32) * factor
    key = tl.arange(0, KEYS)
    top, total = float("-inf"), 0.0
    result = tl.zeros([WIDTH], tl.float32)
    base = kv + start.to(tl.int64) * (2 * heads * D) + head * D
    for first in range(0, length, KEYS):
        inside = first + key < length
        at = (first + key)[:, None] * (2 * heads * D) + column[None, :]
        mask = inside[:, None] & (column < D)[None, :]
        k = tl.load(base + at, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(inside, tl.sum(k * query[None, :], 1), float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 0))
        p = tl.exp(scores - higher)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(p, 0)
        if DROPOUT:
            p *= _factors(seed, start, head, heads, first, site, threshold, scale, KEYS)
        v = tl.load(base + heads * D + at, mask=mask, other=0.0).to(tl.float32)
        result = result * shrink + tl.sum(v * p[:, None], 0)
        top = higher
    # A sequence without tokens, which a batch of fixed size may end with, gives zeros.
    empty = length == 0
    total = tl.where(empty, 1.0, total)
    result = tl.where(empty, 0.0, result / total)
    tl.store(out + own, result, mask=column < D)
    # The backward subtracts sum(out * d_out) from numbers of its size: the rounded result would not cancel.
    tl.store(exact + own, result, mask=column < D)
    tl.store(log_sums + sequence * heads + head, tl.where(empty, 0.0, top + tl.log(total)))


@triton.jit(do_not_specialize=["tokens", "sequences", "heads", "site"])
def _first_token_backward_kernel(
    q,
    kv,
    exact,
    d_out,
    log_sums,
    d_q,
    d_kv,
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
    KEYS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradients of one sequence's query, keys and values of one head; the last programs zero the padding.

    q: [sequences, heads, D] in the compute dtype, the first tokens' queries.
    kv: [tokens, 2, heads, D] in the same dtype.
    exact: fp32, shaped like q, of the forward.
    d_out: like q, the gradient of the result.
    log_sums: fp32 [sequences, heads], of the forward.
    d_q: like q, written.
    d_kv: like kv, written.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: what a query's product with a key is multiplied by.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(cu_seqlens + sequence)
    column = tl.arange(0, WIDTH)
    inside = column < D
    key = tl.arange(0, KEYS)
    across = start.to(tl.int64) * (2 * heads * D) + head * D
    if sequence == sequences:
        clear_padding(d_kv + across, start, tokens, 2 * heads * D, 2, heads * D, KEYS, D, WIDTH)
    else:
        length = tl.load(cu_seqlens + sequence + 1) - start
        own = (sequence * heads + head).to(tl.int64) * D + column
        query = tl.load(q + own, mask=inside, other=0.0).to(tl.float32)
        upstream = tl.load(d_out + own, mask=inside, other=0.0).to(tl.float32)
        result = tl.load(exact + own, mask=inside, other=0.0)
        delta = tl.sum(upstream * result, 0)
        log_sum = tl.load(log_sums + sequence * heads + head)
        query_gradient = tl.zeros([WIDTH], tl.float32)
        for first in range(0, length, KEYS):
            at = (first + key)[:, None] * (2 * heads * D) + column[None, :]
            mask = (first + key < length)[:, None] & inside[None, :]
            k = tl.load(kv + across + at, mask=mask, other=0.0).to(tl.float32)
            v = tl.load(kv + across + heads * D + at, mask=mask, other=0.0).to(tl.float32)
            scores = tl.sum(k * query[None, :], 1) * factor
            p = tl.where(first + key < length, tl.exp(scores - log_sum), 0.0)
            d_p = tl.sum(v * upstream[None, :], 1)
            dropped = p
            if DROPOUT:
                factors = _factors(seed, start, head, heads, first, site, threshold, scale, KEYS)
                dropped = p * factors
                d_p *= factors
            d_scores = p * (d_p - delta) * factor
            query_gradient += tl.sum(k * d_scores[:, None], 0)
            tl.store(d_kv + across + at, d_scores[:, None] * query[None, :], mask=mask)
            tl.store(d_kv + across + heads * D + at, dropped[:, None] * upstream[None, :], mask=mask)
        tl.store(d_q + own, query_gradient, mask=inside)


def _new_forward(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    exact, log_sums = (torch.empty(shape, dtype=torch.float32, device=q.device) for shape in (q.shape, q.shape[:2]))
    return torch.empty_like(q), exact, log_sums


@launcher(lambda q, *rest: _new_forward(q))
def first_token_forward(
    q: Tensor, kv: Tensor, cu_seqlens: Tensor, seed: Tensor | None, site: int, threshold: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result [sequences, heads, d] like q, the same in fp32, and the softmax's log-sums, fp32 [sequences, heads].

    q: [sequences, heads, d]; kv: [tokens, 2, heads, d]; cu_seqlens: int32 [sequences + 1]; then the dropout as
    `kernel_arguments` gives it.
    """
    q, kv = q.contiguous(), kv.contiguous()
    sequences, heads, size = q.shape
    out, exact, log_sums = _new_forward(q)
    width = triton.next_power_of_2(size)
    _first_token_forward_kernel[(sequences, heads)](
        q,
        kv,
        out,
        exact,
        log_sums,
        cu_seqlens,
        heads,
        size**-0.5,
        seed,
        site,
        threshold,
        scale,
        DROPOUT=seed is not None,
        KEYS=max(8, _ELEMENTS // width),
        D=size,
        WIDTH=width,
        num_warps=4,
    )
    return out, exact, log_sums


@launcher(lambda d_out, q, kv, *rest: (torch.empty_like(q), torch.empty_like(kv)))
def first_token_backward(
    d_out: Tensor,
    q: Tensor,
    kv: Tensor,
    exact: Tensor,
    log_sums: Tensor,
    cu_seqlens: Tensor,
    seed: Tensor | None,
    site: int,
    threshold: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of q and kv, like them. Arguments as those and the results of the forward."""
    q, kv, d_out = q.contiguous(), kv.contiguous(), d_out.contiguous()
    sequences, heads, size = q.shape
    d_q, d_kv = torch.empty_like(q), torch.empty_like(kv)
    width = triton.next_power_of_2(size)
    _first_token_backward_kernel[(sequences + 1, heads)](
        q,
        kv,
        exact,
        d_out,
        log_sums,
        d_q,
        d_kv,
        cu_seqlens,
        sequences,
        len(kv),
        heads,
        size**-0.5,
        seed,
        site,
        threshold,
        scale,
        DROPOUT=seed is not None,
        KEYS=max(8, _ELEMENTS // width),
        D=size,
        WIDTH=width,
        num_warps=4,
    )
    return d_q, d_kv
