"""How large the tiles of attention kernels may be, and what they compute with; `tiles_kernels` loads and stores them.

A tile is [rows, WIDTH]: consecutive packed tokens of one head, whose D columns are filled up with zeros to a WIDTH that
products take. Softmax is taken to the base 2, since exp2 is what a GPU computes: see `score_factor`.
"""

import math

from torch import Tensor

from concord.kernels.dispatch import architecture


def shortest_side(qkv: Tensor) -> int:
    """What the rows and columns of a tile of `qkv` may not fall below: 16, and for 16 bits on sm_90 64.

    In kernels of several products there, Triton 3.6.0 to 3.7.1 miscompile those of 16-bit operands with a side of 16 or
    32: they read outside of the shared memory, or give wrong numbers without a word (triton-lang/triton issues 10486,
    10573 and 11366). Interpreted kernels count as those of sm_90.
    """
    return 64 if qkv.element_size() == 2 and architecture(qkv.device) == 9 else 16


def tile_width(qkv: Tensor) -> int:
    """The columns of a tile of `qkv` [..., head size]: products need a power of two, `shortest_side` at least."""
    return max(shortest_side(qkv), 1 << (qkv.shape[-1] - 1).bit_length())


def score_factor(head_size: int) -> float:
    """What a query's product with a key is multiplied by, so that exp2 of it is exp(q k^T / sqrt(d))."""
    return head_size**-0.5 / math.log(2)
