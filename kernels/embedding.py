"""Embedding sum + LayerNorm + dropout: dropout(LayerNorm(words[ids] + positions[position] + segments[segment])).

Forward reads one row of each table a token and writes two (the sum and the result). The backward adds each token's
gradient to the rows of its task that occur; a table's other rows are zero.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.dropout import Dropout
from kernels.layer_norm import layer_norm_backward, layer_norm_forward
from kernels.rows import TaskRows, require_rows, task_gradients_of


def _deposit_table(gradients: Tensor, rows: TaskRows, indices: Tensor, values: Tensor) -> None:
    """Add the rows of `values` [tokens, n] at `indices` [tokens] of each task's table in `gradients` [T, size, n]."""
    if not rows.accumulate:
        gradients.zero_()
    for task, span in rows.slices():
        gradients[task].index_add_(0, indices[span], values[span].to(gradients.dtype))


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        indices: tuple[Tensor, Tensor, Tensor],
        words: Tensor,
        positions: Tensor,
        segments: Tensor,
        gamma: Tensor,
        beta: Tensor,
        epsilon: float,
        dropout: Dropout | None,
        gradients: tuple[Tensor | None, ...],
        rows: TaskRows | None,
    ) -> Tensor:
        tables = (words, positions, segments)
        z = sum(table.index_select(0, index) for table, index in zip(tables, indices, strict=True))
        y, mean, inverse_std = layer_norm_forward(z, gamma, beta, epsilon)
        mask = None if dropout is None else dropout.mask(tuple(y.shape), y.dtype)
        ctx.save_for_backward(z, mean, inverse_std, gamma, mask, *indices)
        ctx.sizes = [table.shape for table in tables]
        ctx.gradients, ctx.rows = gradients, rows
        return y if mask is None else y.mul_(mask)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, mean, inverse_std, gamma, mask, *indices = ctx.saved_tensors
        dy = dy if mask is None else dy * mask
        dz, d_gamma, d_beta = layer_norm_backward(dy, z, mean, inverse_std, gamma, tuple(ctx.gradients[3:]), ctx.rows)
        d_tables: list[Tensor | None] = []
        for index, size, target in zip(indices, ctx.sizes, ctx.gradients[:3], strict=True):
            if target is None:
                d_tables.append(torch.zeros(size, dtype=dz.dtype, device=dz.device).index_add_(0, index, dz))
            else:
                _deposit_table(target, require_rows(ctx.rows), index, dz)
                d_tables.append(None)
        return None, *d_tables, d_gamma, d_beta, None, None, None, None


def embedding(
    ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    dropout: Dropout | None = None,
    rows: TaskRows | None = None,
) -> Tensor:
    """The encoder's first hidden states.

    ids, positions, segments: int32 [tokens]; tables: word, position and segment embeddings, [size, n] each, in the
    compute dtype; gamma, beta: fp32 [n]; rows: the rows of each task, needed in the backward where the parameters have
    `task_gradients`. Returns [tokens, n] in the tables' dtype.
    """
    gradients = tuple(task_gradients_of(parameter) for parameter in (*tables, gamma, beta))
    return _Embedding.apply((ids, positions, segments), *tables, gamma, beta, epsilon, dropout, gradients, rows)
