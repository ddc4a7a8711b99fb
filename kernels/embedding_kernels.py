"""The Triton kernel of the embedding's forward, and what launches it: see `kernels.embedding` for the op."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import launcher
from concord.kernels.dropout_kernels import require_whole_calls, row_dropout_factors
from concord.kernels.layer_norm_kernels import norm_backward as norm_backward  # launched with those here
from concord.kernels.layer_norm_kernels import normalise, tile_shape
from concord.kernels.table_sums_kernels import table_sums as table_sums


@triton.jit(do_not_specialize=["tokens", "site"])
def _embedding_forward_kernel(
    ids,
    positions,
    segments,
    word_table,
    position_table,
    segment_table,
    gamma,
    beta,
    y,
    z,
    mean,
    inverse_std,
    tokens,
    columns,
    epsilon,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sum of three tables' rows, its LayerNorm and its dropout, of STEP tokens.

    ids: int32 [tokens], each token's row in word_table.
    positions: int32 [tokens], its row in position_table.
    segments: int32 [tokens], its row in segment_table.
    word_table: [words, columns] in the compute dtype.
    position_table: [positions, columns] in the same dtype.
    segment_table: [segments, columns] in the same dtype.
    gamma: fp32 [columns], LayerNorm's scale.
    beta: fp32 [columns], LayerNorm's shift.
    y: [tokens, columns] in the tables' dtype, written: the result.
    z: like y, written: the sum, rounded.
    mean: fp32 [tokens], written.
    inverse_std: fp32 [tokens], written: 1 over the standard deviation.
    tokens, columns, epsilon: int, int, float; epsilon: added to the variance.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    row = tl.program_id(0) * STEP + tl.arange(0, STEP)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    valid = (row < tokens)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    word = tl.load(ids + row, mask=row < tokens, other=0).to(tl.int64)[:, None] * columns + column[None, :]
    place = tl.load(positions + row, mask=row < tokens, other=0).to(tl.int64)[:, None] * columns + column[None, :]
    kind = tl.load(segments + row, mask=row < tokens, other=0).to(tl.int64)[:, None] * columns + column[None, :]
    total = tl.load(word_table + word, mask=valid, other=0.0).to(tl.float32)
    total += tl.load(position_table + place, mask=valid, other=0.0).to(tl.float32)
    total += tl.load(segment_table + kind, mask=valid, other=0.0).to(tl.float32)
    # The backward reads the rounded sum: statistics and result belong to the same value.
    rounded = total.to(z.dtype.element_ty)
    tl.store(z + at, rounded, mask=valid)
    weight = tl.load(gamma + column, mask=inside, other=0.0)
    shift = tl.load(beta + column, mask=inside, other=0.0)
    normal, row_mean, row_inverse = normalise(rounded.to(tl.float32), weight, shift, valid, columns, epsilon)
    if DROPOUT:
        normal *= row_dropout_factors(tl.load(seed), row, 0, columns, site, threshold, scale, COLUMNS // 8)
    tl.store(y + at, normal, mask=valid)
    tl.store(mean + row, row_mean, mask=row < tokens)
    tl.store(inverse_std + row, row_inverse, mask=row < tokens)


def _new_forward(ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, z = (torch.empty(len(ids), table.shape[1], dtype=table.dtype, device=table.device) for _ in range(2))
    mean, inverse_std = (torch.empty(len(ids), dtype=torch.float32, device=table.device) for _ in range(2))
    return y, z, mean, inverse_std


@launcher(lambda ids, positions, segments, word_table, *rest: _new_forward(ids, word_table))
def embedding_forward(
    ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    word_table: Tensor,
    position_table: Tensor,
    segment_table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    seed: Tensor | None,
    site: int,
    threshold: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y and z [tokens, n] in the tables' dtype; mean and 1/std, fp32 [tokens]."""
    tokens, columns = len(ids), word_table.shape[1]
    require_whole_calls(seed, columns)
    results = _new_forward(ids, word_table)
    shape = tile_shape(columns)
    _embedding_forward_kernel[(triton.cdiv(tokens, shape["STEP"]),)](
        ids.contiguous(),
        positions.contiguous(),
        segments.contiguous(),
        word_table,
        position_table,
        segment_table,
        gamma,
        beta,
        *results,
        tokens,
        columns,
        epsilon,
        seed,
        site,
        threshold,
        scale,
        DROPOUT=seed is not None,
        **shape,
    )
    return results
