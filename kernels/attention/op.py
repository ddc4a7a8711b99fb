"""Bidirectional attention over packed sequences of any length: softmax(q k^T / sqrt(d)) v (Vaswani et al., 2017).

Two forms: every token attends to its sequence, or only each sequence's first token does, which is all that a last
layer under [CLS] pooling needs. Dropout falls on the probabilities. Scores, softmax and their gradient are fp32.
For sequences of length L, `4 * L^2 * d` operations a head forward and `8 * L^2 * d` backward (the kernels, which
recompute the scores, `10 * L^2 * d`, and once more for long sequences: `14 * L^2 * d`).
"""

import math
from typing import Any

import torch
from torch import Tensor

from concord.kernels.dispatch import launchers
from concord.kernels.dropout import Dropout, kernel_arguments
from concord.kernels.layout.rows import wide
from concord.kernels.layout.sequences import Group, Sequences


def _first_token_triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels.attention import first_token_kernels

    return first_token_kernels


def _triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels.attention import launch

    return launch


def _attend(
    q: Tensor, k: Tensor, v: Tensor, group: Group, dropout: Dropout | None, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One group's output [size, heads, queries, d], its fp32 probabilities and their dropout mask.

    rows: int64 [size, queries], each query's row among the packed tokens.
    """
    scores = torch.matmul(q, k.transpose(-1, -2)).to(wide(q.dtype)).mul_(1 / math.sqrt(q.shape[-1]))
    if group.mask is not None:
        scores += group.mask
    probabilities = torch.softmax(scores, dim=-1)
    if dropout is None:
        return torch.matmul(probabilities.to(v.dtype), v), probabilities, None
    mask = dropout.attention_mask(rows, q.shape[1], k.shape[2], probabilities.dtype)
    return torch.matmul((probabilities * mask).to(v.dtype), v), probabilities, mask


def _backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, probabilities: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, each [size, heads, queries or length, d]."""
    dropped = probabilities if mask is None else probabilities * mask
    dv = torch.matmul(dropped.to(d_out.dtype).transpose(-1, -2), d_out)
    d_probabilities = torch.matmul(d_out, v.transpose(-1, -2)).to(probabilities.dtype)
    if mask is not None:
        d_probabilities *= mask
    # Softmax's gradient: ds = p * (dp - sum(p * dp)).
    d_scores = torch.ops.aten._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
    d_scores = d_scores.mul_(1 / math.sqrt(q.shape[-1])).to(q.dtype)
    return torch.matmul(d_scores, k), torch.matmul(d_scores.transpose(-1, -2), q), dv


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, sequences: Sequences, dropout: Dropout | None) -> Tensor:
        ctx.launchers, ctx.sequences, ctx.dropout = launchers("attention", qkv, _triton), sequences, dropout
        if ctx.launchers:
            boundaries = (sequences.cu_seqlens, sequences.max_length)
            out, log_sums = ctx.launchers.attention_forward(qkv, *boundaries, *kernel_arguments(dropout))
            ctx.save_for_backward(qkv, out, log_sums)
            return out
        padding = sequences.padding
        padded = padding.pad(qkv)
        out = torch.empty_like(padded[:, 0])
        saved: list[Tensor | None] = []
        for group in padding.groups:
            # One copy makes every product below read contiguous matrices, here and in the backward.
            group_qkv = group.rows(padded).permute(2, 0, 3, 1, 4).contiguous()
            group_out, probabilities, mask = _attend(*group_qkv, group, dropout, group.rows(padding.sources))
            group.rows(out).copy_(group_out.transpose(1, 2))
            saved += [group_qkv, probabilities, mask]
        ctx.save_for_backward(*saved)
        ctx.padding, ctx.shape = padding, padded.shape
        return padding.unpad(out)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        if ctx.launchers:
            boundaries = (ctx.sequences.cu_seqlens, ctx.sequences.max_length)
            arguments = kernel_arguments(ctx.dropout)
            return ctx.launchers.attention_backward(d_out, *ctx.saved_tensors, *boundaries, *arguments), None, None
        saved, padding = ctx.saved_tensors, ctx.padding
        padded_d_out = padding.pad_with_zeros(d_out)
        d_padded = d_out.new_empty(ctx.shape)
        for group, qkv, probabilities, mask in zip(padding.groups, saved[::3], saved[1::3], saved[2::3], strict=True):
            gradients = _backward(group.rows(padded_d_out).transpose(1, 2).contiguous(), *qkv, probabilities, mask)
            for index, gradient in enumerate(gradients):
                group.rows(d_padded)[:, :, index].copy_(gradient.transpose(1, 2))
        return padding.unpad(d_padded), None, None


class _FirstTokenAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, sequences: Sequences, dropout: Dropout | None) -> Tensor:
        ctx.launchers, ctx.sequences, ctx.dropout = (
            launchers("first_token_attention", q, _first_token_triton),
            sequences,
            dropout,
        )
        if ctx.launchers:
            out, *saved = ctx.launchers.first_token_forward(q, kv, sequences.cu_seqlens, *kernel_arguments(dropout))
            ctx.save_for_backward(q, kv, *saved)
            return out
        padding = sequences.padding
        padded = padding.pad(kv)
        out = torch.empty_like(q)
        saved: list[Tensor | None] = []
        for group in padding.groups:
            group_q = q.index_select(0, group.members).unsqueeze(2)
            rows = sequences.first.index_select(0, group.members).unsqueeze(1)
            group_kv = group.rows(padded).permute(2, 0, 3, 1, 4).contiguous()
            group_out, probabilities, mask = _attend(group_q, *group_kv, group, dropout, rows)
            out.index_copy_(0, group.members, group_out.squeeze(2))
            saved += [group_q, group_kv, probabilities, mask]
        ctx.save_for_backward(*saved)
        ctx.padding, ctx.shape = padding, padded.shape
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if ctx.launchers:
            arguments = kernel_arguments(ctx.dropout)
            return (
                *ctx.launchers.first_token_backward(d_out, *ctx.saved_tensors, ctx.sequences.cu_seqlens, *arguments),
                None,
                None,
            )
        saved, padding = ctx.saved_tensors, ctx.padding
        dq, d_padded = torch.empty_like(d_out), d_out.new_empty(ctx.shape)
        for index, group in enumerate(padding.groups):
            q, kv, probabilities, mask = saved[4 * index : 4 * index + 4]
            group_d_out = d_out.index_select(0, group.members).unsqueeze(2)
            group_dq, *gradients = _backward(group_d_out, q, *kv, probabilities, mask)
            dq.index_copy_(0, group.members, group_dq.squeeze(2))
            for part, gradient in enumerate(gradients):
                group.rows(d_padded)[:, :, part].copy_(gradient.transpose(1, 2))
        return dq, padding.unpad(d_padded), None, None


def attention(qkv: Tensor, sequences: Sequences, dropout: Dropout | None = None) -> Tensor:
    """Every token attends to all tokens of its sequence.

    qkv: [tokens, 3, heads, d], the fused product as it lies in memory; sequences: their boundaries.
    Returns [tokens, heads, d] in qkv's dtype.
    """
    return _Attention.apply(qkv, sequences, dropout)


def first_token_attention(q: Tensor, kv: Tensor, sequences: Sequences, dropout: Dropout | None = None) -> Tensor:
    """Only the first token of each sequence attends to all tokens of its sequence.

    q: [sequences, heads, d], the queries of the first tokens; kv: [tokens, 2, heads, d].
    Returns [sequences, heads, d] in q's dtype.
    """
    return _FirstTokenAttention.apply(q, kv, sequences, dropout)
