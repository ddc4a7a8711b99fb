"""Bidirectional attention over packed sequences of any length: softmax(q k^T / sqrt(d)) v (Vaswani et al., 2017).

Two forms: every token attends to its sequence, or only each sequence's first token does, which is all that a last
layer under [CLS] pooling needs. Dropout falls on the probabilities. Scores, softmax and their gradient are fp32.
For sequences of length L, `4 * L^2 * d` operations a head forward and `8 * L^2 * d` backward (the kernels, which
recompute the scores, `10 * L^2 * d`).
"""

import math
from typing import Any

import torch
from torch import Tensor

from kernels.dropout import Dropout
from kernels.rows import wide
from kernels.sequences import Group, Sequences


def _attend(
    q: Tensor, k: Tensor, v: Tensor, group: Group, dropout: Dropout | None, drawn: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One group's output [size, heads, queries, d], its fp32 probabilities and their dropout mask.

    drawn: how many elements of the dropout's site the groups before this one have used.
    """
    scores = torch.matmul(q, k.transpose(-1, -2)).to(wide(q.dtype)).mul_(1 / math.sqrt(q.shape[-1]))
    if group.mask is not None:
        scores += group.mask
    probabilities = torch.softmax(scores, dim=-1)
    if dropout is None:
        return torch.matmul(probabilities.to(v.dtype), v), probabilities, None
    mask = dropout.mask(tuple(probabilities.shape), probabilities.dtype, start=drawn)
    return torch.matmul((probabilities * mask).to(v.dtype), v), probabilities, mask


def _used(probabilities: Tensor) -> int:
    """How many elements of a dropout's site a group uses up: its own, rounded up to a whole call of the generator."""
    return (probabilities.numel() + 7) // 8 * 8


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
        out = torch.empty_like(qkv[:, 0])
        saved: list[Tensor | None] = []
        drawn = 0
        for group in sequences.groups:
            q, k, v = group.pad(qkv).permute(2, 0, 3, 1, 4)
            group_out, probabilities, mask = _attend(q, k, v, group, dropout, drawn)
            group.unpad(group_out.transpose(1, 2), out)
            drawn += _used(probabilities)
            saved += [probabilities, mask]
        ctx.save_for_backward(qkv, *saved)
        ctx.sequences = sequences
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        qkv, *saved = ctx.saved_tensors
        d_qkv = torch.empty_like(qkv)
        for group, probabilities, mask in zip(ctx.sequences.groups, saved[::2], saved[1::2], strict=True):
            q, k, v = group.pad(qkv).permute(2, 0, 3, 1, 4)
            gradients = _backward(group.pad(d_out).transpose(1, 2), q, k, v, probabilities, mask)
            group.unpad(torch.stack(gradients).permute(1, 3, 0, 2, 4), d_qkv)
        return d_qkv, None, None


class _FirstTokenAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, sequences: Sequences, dropout: Dropout | None) -> Tensor:
        out = torch.empty_like(q)
        saved: list[Tensor | None] = []
        drawn = 0
        for group in sequences.groups:
            k, v = group.pad(kv).permute(2, 0, 3, 1, 4)
            group_q = q.index_select(0, group.members).unsqueeze(2)
            group_out, probabilities, mask = _attend(group_q, k, v, group, dropout, drawn)
            out.index_copy_(0, group.members, group_out.squeeze(2))
            drawn += _used(probabilities)
            saved += [probabilities, mask]
        ctx.save_for_backward(q, kv, *saved)
        ctx.sequences = sequences
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, kv, *saved = ctx.saved_tensors
        dq, d_kv = torch.empty_like(q), torch.empty_like(kv)
        for group, probabilities, mask in zip(ctx.sequences.groups, saved[::2], saved[1::2], strict=True):
            k, v = group.pad(kv).permute(2, 0, 3, 1, 4)
            group_q, group_d_out = (x.index_select(0, group.members).unsqueeze(2) for x in (q, d_out))
            group_dq, dk, dv = _backward(group_d_out, group_q, k, v, probabilities, mask)
            dq.index_copy_(0, group.members, group_dq.squeeze(2))
            group.unpad(torch.stack((dk, dv)).permute(1, 3, 0, 2, 4), d_kv)
        return dq, d_kv, None, None


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
