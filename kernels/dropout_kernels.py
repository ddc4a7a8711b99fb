"""Dropout in Triton kernels, within others' and by itself: the same random bits as `kernels.dropout` says they are."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import launcher

_CALLS = 128  # of the generator, each for eight elements, that a program of the op by itself makes


def require_whole_calls(seed: Tensor | None, columns: int) -> None:
    """ValueError where there is a dropout and rows are no multiple of 8: a call would span two of them."""
    if seed is not None and columns % 8:
        raise ValueError(f"dropout on rows of {columns} elements: the kernels need a multiple of 8")


@triton.jit
def _words(seed, low, high, site):
    """`philox`: four uint32 like `low`."""
    zero = low * 0
    return tl.philox(seed, low, high, zero + site, zero, n_rounds=7)


@triton.jit
def dropout_factors(seed, low, high, site, threshold, scale):
    """What the kernels multiply by: `Dropout._factors`, for calls whose counters are high * 2^32 + low.

    seed: int64, already loaded; low, high: int32 or uint32 [rows, calls]; site, threshold, scale: of the dropout.
    Returns fp32 [rows, 8 * calls].
    """
    word0, word1, word2, word3 = _words(seed, low, high, site)
    # A lane's number has three binary digits: the joins go from the highest digit to the lowest.
    lower = tl.join(tl.join(word0 & 0xFFFF, word2 & 0xFFFF), tl.join(word1 & 0xFFFF, word3 & 0xFFFF))
    upper = tl.join(tl.join(word0 >> 16, word2 >> 16), tl.join(word1 >> 16, word3 >> 16))
    lanes = tl.reshape(tl.join(lower, upper), [low.shape[0], low.shape[1] * 8])
    return tl.where((lanes ^ 0x8000) >= threshold, scale, 0.0)


@triton.jit
def _kept_pair(word, threshold):
    """Whether the two elements that a word serves are kept: bits 0 and 1 of an int32."""
    lower = ((word & 0xFFFF) ^ 0x8000) >= threshold
    upper = ((word >> 16) ^ 0x8000) >= threshold
    return lower.to(tl.int32) | upper.to(tl.int32) << 1


@triton.jit
def dropout_bits(seed, low, high, site, threshold):
    """Which elements `dropout_factors` keeps, with the same arguments: int32 [rows, calls], bit i for a call's i-th."""
    word0, word1, word2, word3 = _words(seed, low, high, site)
    lower = _kept_pair(word0, threshold) | _kept_pair(word1, threshold) << 2
    return lower | _kept_pair(word2, threshold) << 4 | _kept_pair(word3, threshold) << 6


@triton.jit
def row_dropout_factors(seed, row, column_start, columns, site, threshold, scale, CALLS: tl.constexpr):
    """`Dropout.mask` for rows of a matrix: fp32 [rows, 8 * CALLS].

    row: int [rows]; column_start: the first column, a multiple of 8; columns: of the matrix, a multiple of 8.
    """
    call = row.to(tl.int64)[:, None] * (columns // 8) + (column_start // 8 + tl.arange(0, CALLS))[None, :]
    return dropout_factors(seed, call.to(tl.uint32), (call >> 32).to(tl.uint32), site, threshold, scale)


@triton.jit(do_not_specialize=["count", "site"])
def _dropout_kernel(x, y, seed, count, site, threshold, scale, CALLS: tl.constexpr):
    """8 * CALLS elements of x, each zero or multiplied by the scale.

    x: [count] in any dtype of floating point.
    y: like x, written.
    seed: int64 scalar, the dropout's.
    count: int, the elements of x.
    site, threshold, scale: int, int, float, of the dropout.
    """
    first = tl.program_id(0).to(tl.int64) * CALLS
    call = (first + tl.arange(0, CALLS))[None, :]
    factors = dropout_factors(tl.load(seed), call.to(tl.uint32), (call >> 32).to(tl.uint32), site, threshold, scale)
    at = (first * 8 + tl.arange(0, 8 * CALLS))[None, :]
    value = tl.load(x + at, mask=at < count, other=0.0)
    tl.store(y + at, value.to(tl.float32) * factors, mask=at < count)


@launcher(lambda x, *arguments: torch.empty_like(x))
def drop(x: Tensor, seed: Tensor, site: int, threshold: int, scale: float) -> Tensor:
    """x times its mask, in any shape; seed: int64 scalar, like the others of `Dropout`."""
    x = x.contiguous()
    y = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), 8 * _CALLS),)
    _dropout_kernel[grid](x, y, seed, x.numel(), site, threshold, scale, CALLS=_CALLS)
    return y
