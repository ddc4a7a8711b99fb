"""Embedding sum + LayerNorm + dropout: dropout(LayerNorm(words[ids] + positions[position] + segments[segment])).

Forward reads one row of each table a token and writes two (the sum z and the result). The backward reads the upstream
gradient and z, writes the gradient of z, and adds it to the rows of the tables that occur: see
`kernels.table_sums_kernels`. Nothing else of the tables is touched but the rows that the step before wrote, which
become zero.
"""

from typing import Any

import torch
from torch import Tensor

from concord.kernels.dispatch import launchers
from concord.kernels.dropout import Dropout, kernel_arguments
from concord.kernels.layer_norm import layer_norm_backward, layer_norm_forward
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.rows import TaskRows, require_rows, rows_to_sum, task_gradients_of, wide


def _triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels import embedding_kernels

    return embedding_kernels


def _deposit_table(
    gradients: Tensor, touched: Tensor | None, rows: TaskRows, indices: Tensor, values: Tensor, *, add: bool
) -> None:
    """Add the rows of `values` [tokens, n] at `indices` [tokens] of each task's table in `gradients` [T, size, n].

    touched: uint8 [T, chunks] as `FlatParameters` has it, or None; add: to what stands there; otherwise the rows that
    do not occur become zero.
    """
    if not add:
        _clear(gradients, touched)
    columns = gradients.shape[2]
    for task, span in rows.slices():
        _add_rows(gradients[task], indices[span], values[span])
        if touched is not None:
            first = indices[span].long() * columns
            for element in (*range(0, columns, CHUNK), columns - 1):
                touched[task].index_fill_(0, (first + element) // CHUNK, 1)


def _add_rows(table: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """Add the rows of `values` [tokens, n] to those of `table` [size, n] at `indices` [tokens], and return the table.

    Where the table is 16 bits wide the sums are fp32 and rounded once: added up in 16 bits, a row that many tokens
    share soon grows no more. They take room for as many rows as there are tokens, and not for the table's.
    """
    wider = wide(table.dtype)
    if table.dtype == wider:
        return table.index_add_(0, indices, values.to(wider))
    indices = indices.long()
    tokens = torch.arange(len(indices), device=indices.device)
    # Of the tokens with the same index one, whichever, stands for all of them.
    standing = tokens.new_zeros(len(table)).index_copy_(0, indices, tokens).index_select(0, indices)
    sums = torch.zeros(values.shape, dtype=wider, device=values.device).index_add_(0, standing, values.to(wider))
    totals = sums.index_select(0, standing).add_(table.index_select(0, indices))
    return table.index_copy_(0, indices, totals.to(table.dtype))


def _clear(gradients: Tensor, touched: Tensor | None) -> None:
    """Zero a table's gradients [T, size, n], on a CPU only the rows that reach into chunks which are flagged."""
    if touched is None or touched.is_cuda:
        gradients.zero_()
    else:
        size, columns = gradients.shape[1:]
        reach = torch.arange(CHUNK // columns + 2)  # a chunk lies in so many rows at most
        for task, flags in enumerate(touched):
            first = flags.nonzero() * CHUNK // columns
            gradients[task].index_fill_(0, (first + reach).clamp_(max=size - 1).flatten(), 0.0)
    if touched is not None:
        touched.zero_()


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ids: Tensor,
        positions: Tensor,
        segments: Tensor,
        words: Tensor,
        position_table: Tensor,
        segment_table: Tensor,
        gamma: Tensor,
        beta: Tensor,
        epsilon: float,
        dropout: Dropout | None,
        gradients: tuple[Tensor | None, ...],
        touched: tuple[Tensor | None, ...],
        rows: TaskRows | None,
        tied_words: bool,
    ) -> Tensor:
        indices, tables = (ids, positions, segments), (words, position_table, segment_table)
        ctx.shapes = [table.shape for table in tables]
        ctx.gradients, ctx.rows, ctx.dropout = gradients, rows, dropout
        ctx.launchers = launchers("embedding", words, _triton)
        ctx.touched, ctx.tied_words = touched, tied_words
        if ctx.launchers:
            arguments = kernel_arguments(dropout)
            y, z, mean, inverse_std = ctx.launchers.embedding_forward(
                *indices, *tables, gamma, beta, epsilon, *arguments
            )
            ctx.save_for_backward(z, mean, inverse_std, gamma, *indices)
            return y
        z = sum(table.index_select(0, index) for table, index in zip(tables, indices, strict=True))
        y, mean, inverse_std = layer_norm_forward(z, gamma, beta, epsilon)
        mask = None if dropout is None else dropout.mask(tuple(y.shape), y.dtype)
        ctx.save_for_backward(z, mean, inverse_std, gamma, *indices, mask)
        return y if mask is None else y.mul_(mask)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.launchers:
            dz, d_gamma, d_beta, indices = _Embedding._launched_norm_backward(ctx, dy)
            return None, None, None, *_Embedding._launched_tables(ctx, dz, indices), d_gamma, d_beta, *[None] * 6
        z, mean, inverse_std, gamma, *indices, mask = ctx.saved_tensors
        dy = dy if mask is None else dy * mask
        gradients = tuple(ctx.gradients[3:])
        dz, d_gamma, d_beta = layer_norm_backward(dy, z, mean, inverse_std, gamma, gradients, ctx.rows)
        d_tables: list[Tensor | None] = []
        tied = (ctx.tied_words, False, False)
        for index, shape, target, touched, is_tied in zip(
            indices, ctx.shapes, ctx.gradients[:3], ctx.touched, tied, strict=True
        ):
            if target is None:
                d_tables.append(_add_rows(torch.zeros(shape, dtype=dz.dtype, device=dz.device), index, dz))
            else:
                rows = require_rows(ctx.rows)
                _deposit_table(target, touched, rows, index, dz, add=rows.accumulate or is_tied)
                d_tables.append(None)
        return None, None, None, *d_tables, d_gamma, d_beta, *[None] * 6

    @staticmethod
    def _launched_norm_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
        """LayerNorm's part of the backward: dz, gamma's and beta's gradients, and the tables' indices."""
        z, mean, inverse_std, gamma, *indices = ctx.saved_tensors
        targets, offsets_and_add = ctx.gradients[3:], rows_to_sum(ctx.gradients[3], ctx.rows, z)
        deposits = targets[0] is not None
        if not deposits:
            targets = torch.empty(2, 1, z.shape[1], device=z.device)
        arguments = (*targets, None, *offsets_and_add, *kernel_arguments(ctx.dropout))
        dz, _ = ctx.launchers.norm_backward(dy, z, mean, inverse_std, gamma, *arguments)
        return dz, *((None, None) if deposits else (targets[0][0], targets[1][0])), indices

    @staticmethod
    def _launched_tables(ctx: Any, dz: Tensor, indices: list[Tensor]) -> list[Tensor | None]:
        """The tables' part of it: their gradients, None where these are deposited."""
        gradients, (offsets, add) = ctx.gradients[:3], rows_to_sum(ctx.gradients[0], ctx.rows, dz)
        deposits, touched = gradients[0] is not None, ctx.touched
        if not deposits:
            gradients = [torch.empty(1, *shape, dtype=dz.dtype, device=dz.device) for shape in ctx.shapes]
        elif gradients[2] is None:  # a constant in place of segments: nobody reads its sums
            tasks, shape = len(gradients[0]), ctx.shapes[2]
            gradients = (*gradients[:2], gradients[0].new_zeros(tasks, *shape))
            chunks = -(-shape.numel() // CHUNK)
            touched = (*touched[:2], None if touched[0] is None else touched[0].new_ones(tasks, chunks))
        ctx.launchers.table_sums(dz, *indices, *gradients, *touched, offsets, add, deposits and ctx.tied_words)
        return [None] * 3 if deposits else [gradient[0] for gradient in gradients]


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
    *,
    tied_words: bool = False,
) -> Tensor:
    """The encoder's first hidden states.

    ids, positions, segments: int32 [tokens]; tables: word, position and segment embeddings, [size, n] each, in the
    compute dtype, the last one a constant where there are no segments; gamma, beta: fp32 [n]; rows: the rows of each
    task, needed in the backward where the parameters have `task_gradients`; tied_words: whether the word table is a
    decoder's weight too, whose backward comes first in every micro-batch: the task gradients that it leaves are added
    to. Returns [tokens, n] in the tables' dtype. The kernels raise ValueError where there is a dropout and n is not a
    multiple of 8.
    """
    gradients = tuple(task_gradients_of(parameter) for parameter in (*tables, gamma, beta))
    touched: tuple[Tensor | None, ...] = (None, None, None)
    if gradients[0] is not None:
        touched = tuple(getattr(table, "touched_chunks", None) for table in tables)
        if tied_words and touched[0] is not None:
            touched[0].fill_(1)  # the decoder writes to all of it
    return _Embedding.apply(
        ids, positions, segments, *tables, gamma, beta, epsilon, dropout, gradients, touched, rows, tied_words
    )
