"""What attention kernels share: how rows of one head come into a tile and leave it.

A tile is [rows, WIDTH]: consecutive packed tokens of one head, whose D columns are filled up with zeros to a WIDTH that
products take. Softmax is taken to the base 2, since exp2 is what a GPU computes: see `score_factor`.
"""

import math

import triton
import triton.language as tl

LN_2 = tl.constexpr(math.log(2))  # a gradient to the base 2 times this is one to the base e


def tile_width(head_size: int) -> int:
    """The columns of a tile: products need a power of two, 16 at least."""
    return max(16, triton.next_power_of_2(head_size))


def score_factor(head_size: int) -> float:
    """What a query's product with a key is multiplied by, so that exp2 of it is exp(q k^T / sqrt(d))."""
    return head_size**-0.5 / math.log(2)


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
