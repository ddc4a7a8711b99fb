"""What the Triton kernels of attention share: how rows of one head come into a tile and leave it, and its dropout."""

import math

import triton
import triton.language as tl

from concord.kernels.dropout_kernels import dropout_bits

LN_2 = tl.constexpr(math.log(2))  # a gradient to the base 2 times this is one to the base e


@triton.jit
def load_rows(base, first, length, stride, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """Rows `first` and on of one head, [ROWS, WIDTH]; zero beyond `length` rows and D columns."""
    row, column = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (row < length)[:, None] & (column < D)[None, :]
    return tl.load(base + row[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, first, length, stride, values, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """Write `values` [ROWS, WIDTH] where `load_rows` would read them, in the dtype of `base`."""
    row, column = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (row < length)[:, None] & (column < D)[None, :]
    at = base + row[:, None] * stride + column[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def clear_padding(
    base, start, tokens, stride, parts, part_stride, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr
):
    """Zero one head's rows after the last sequence, which a batch of fixed size may have; programs share them.

    base: of the first such row, which is row `start` of `tokens`; parts: how many lie `part_stride` apart.
    """
    block, blocks = tl.program_id(2), tl.num_programs(2)
    zeros = tl.zeros([ROWS, WIDTH], base.dtype.element_ty)
    for first in range(block * ROWS, tokens - start, blocks * ROWS):
        for part in range(parts):
            store_rows(base + part * part_stride, first, tokens - start, stride, zeros, ROWS, D, WIDTH)


@triton.jit
def kept_bits(seed, row, head, heads, first_key, site, threshold, KEYS: tl.constexpr):
    """Which probabilities `Dropout.attention_mask` keeps: uint64 [rows], bit i for a query's key `first_key` + i.

    row: int32 [rows], each query's packed row; first_key: a multiple of 8; KEYS: 64 at most. Packed like this, what one
    thread draws and another one uses is one number a query.
    """
    call = tl.arange(0, KEYS // 8)[None, :]
    low = (row * heads + head)[:, None] + call * 0
    eighths = dropout_bits(tl.load(seed), low, low * 0 + call + first_key // 8, site, threshold)
    return tl.sum(eighths.to(tl.uint64) << (8 * call), 1)


@triton.jit
def _bits_at(bits, key, KEYS: tl.constexpr):
    """The `key`-th (int32 below KEYS) of each query's `bits` as a bool; both broadcast."""
    # The shifts are of 32 bits: those of 64 would keep their distances in some 80 more registers throughout a loop.
    word = bits.to(tl.uint32)
    if KEYS > 32:
        word = tl.where(key < 32, word, (bits >> 32).to(tl.uint32))
    return (word >> (key & 31)) & 1 != 0


@triton.jit
def kept_mask(bits, KEYS: tl.constexpr):
    """The first KEYS of each query's `kept_bits`: bool [rows, KEYS]."""
    # A reshape, and not bits[:, None], by which the compiler would pass the layout of the products on to the generator:
    # in that of a tile of 32, four threads make every call.
    return _bits_at(tl.reshape(bits, [bits.shape[0], 1]), tl.arange(0, KEYS)[None, :], KEYS)


@triton.jit
def kept_mask_of_keys(bits, KEYS: tl.constexpr):
    """`kept_mask`, transposed: bool [KEYS, rows]."""
    return _bits_at(tl.reshape(bits, [1, bits.shape[0]]), tl.arange(0, KEYS)[:, None], KEYS)
