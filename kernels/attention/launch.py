"""What launches the Triton kernels of attention, by the length of the sequences: see `kernels.attention.op` for the op.

One launch forward and one backward, whatever the lengths: where all sequences are short they share tiles
(`kernels.attention.short_kernels`), and where some are longer than a tile these are cut into blocks beside such tiles
(`kernels.attention.mixed_kernels`). Heads of more than 64 elements are too large for that, and tiled in one launch
forward and two or three backward (`kernels.attention.tiled_kernels`). Only the softmax's log-sum is kept; scores and
dropout are computed anew in the backward. No atomics anywhere.

The forward reads 3 and writes 1 row of heads * d elements a token, the backward of short sequences reads 4 and writes
3, beside 4 * L^2 * d and 10 * L^2 * d operations a head and sequence. The backward of a long sequence of B blocks reads
3 + 2 * B rows as queries and 2 + 3 * B as keys, and does 14 * L^2 * d. On an H200 (4.3 TB/s, 790 TFLOP/s in bf16),
4,096 tokens of 768 elements take at least 5.9 us forward and 10.2 us backward for their bytes; for the products a tenth
of that where sequences are of 30 tokens. Of 16 bits, heads of fewer than 64 elements are multiplied there as if they
had 64: see `kernels.attention.tiles.shortest_side`.
"""

import torch
from torch import Tensor

from concord.kernels.dispatch import launcher


def _new_forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    tokens, _, heads, _ = qkv.shape
    return torch.empty_like(qkv[:, 0]).contiguous(), torch.empty(heads, tokens, dtype=torch.float32, device=qkv.device)


@launcher(lambda qkv, *rest: _new_forward(qkv))
def attention_forward(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, seed: Tensor | None, site: int, threshold: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The result [tokens, heads, d] like qkv, and the base-2 log-sums of the softmax, fp32 [heads, tokens].

    qkv: [tokens, 3, heads, d]; cu_seqlens: int32 [sequences + 1]; max_length: no sequence is longer; then the dropout
    as `kernel_arguments` gives it. Rows after the last sequence are zero in the result, their log-sums are not set.
    """
    from concord.kernels.attention.mixed_kernels import mixed_forward
    from concord.kernels.attention.short_kernels import short_forward, short_tile
    from concord.kernels.attention.tiled_kernels import tiled_forward

    qkv = qkv.contiguous()
    out, log_sums = _new_forward(qkv)
    dropout = (seed, site, threshold, scale)
    tile = short_tile(qkv, max_length)
    if not tile:
        tiled_forward(qkv, out, log_sums, cu_seqlens, max_length, dropout)
    elif max_length > tile:
        mixed_forward(qkv, out, log_sums, cu_seqlens, max_length, dropout)
    else:
        short_forward(qkv, out, log_sums, cu_seqlens, tile, dropout)
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
    from concord.kernels.attention.mixed_kernels import mixed_backward
    from concord.kernels.attention.short_kernels import short_backward, short_tile
    from concord.kernels.attention.tiled_kernels import tiled_backward

    qkv, d_out = qkv.contiguous(), d_out.contiguous()
    d_qkv = torch.empty_like(qkv)
    dropout = (seed, site, threshold, scale)
    tile = short_tile(qkv, max_length)
    if not tile:
        tiled_backward(d_out, qkv, out, log_sums, d_qkv, cu_seqlens, max_length, dropout)
    elif max_length > tile:
        mixed_backward(d_out, qkv, out, log_sums, d_qkv, cu_seqlens, max_length, dropout)
    else:
        short_backward(d_out, qkv, log_sums, d_qkv, cu_seqlens, tile, dropout)
    return d_qkv
