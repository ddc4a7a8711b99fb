"""Packed attention against one dense attention a sequence, in fp64."""

import numpy as np
import pytest
import torch

from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.dropout import Dropout
from concord.kernels.layout.sequences import HostSequences
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close

LENGTHS = [(1,), (5,), (3, 1, 17, 2, 2), tuple(range(1, 40)), (512, 1, 100)]


def dense(qkv, lengths):
    """softmax(q k^T / sqrt(d)) v, a sequence at a time."""
    outputs = []
    for piece in qkv.double().split(list(lengths)):
        q, k, v = piece.permute(1, 2, 0, 3)
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("head_size", [32, 64])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_token_attends_to_its_own_sequence_only(lengths, head_size, dtype):
    qkv = torch.randn(sum(lengths), 3, 2, head_size).to(dtype).requires_grad_()
    upstream = torch.randn(sum(lengths), 2, head_size).to(dtype)
    out = attention(qkv, HostSequences(np.array(lengths)))
    out.backward(upstream)
    reference = qkv.detach().double().requires_grad_()
    expected = dense(reference, lengths)
    expected.backward(upstream.double())
    assert_close(out, expected, TOLERANCES[dtype])
    assert_close(qkv.grad, reference.grad, TOLERANCES[dtype])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_first_token_attention_is_the_first_row_of_the_whole(lengths):
    sequences = HostSequences(np.array(lengths))
    qkv = torch.randn(sum(lengths), 3, 2, 32, requires_grad=True)
    upstream = torch.randn(len(lengths), 2, 32)
    attention(qkv, sequences)[sequences.first].backward(upstream)
    whole, qkv.grad = qkv.grad, None
    out = first_token_attention(qkv[sequences.first, 0], qkv[:, 1:], sequences)
    out.backward(upstream)
    assert_close(out, dense(qkv, lengths)[sequences.first], TOLERANCES[torch.float32])
    assert_close(qkv.grad, whole, TOLERANCES[torch.float32])


def test_the_same_call_twice_is_bitwise_equal():
    qkv = torch.randn(60, 3, 2, 32)
    sequences, dropout = HostSequences(np.array([20, 7, 33])), Dropout(0.1, torch.tensor(4), 0)
    assert torch.equal(attention(qkv, sequences, dropout), attention(qkv, sequences, dropout))


def test_dropout_drops_the_said_share_of_probabilities():
    # With v = 1, an output is the kept probabilities' sum: 1 on average, and never quite 1 for each query.
    qkv = torch.randn(400, 3, 2, 32)
    qkv[:, 2] = 1
    out = attention(qkv, HostSequences(np.array([200, 200])), Dropout(0.25, torch.tensor(4), 0))
    assert abs(out.mean().item() - 1) < 0.01
    assert out.std().item() > 0.01


def test_groups_hold_every_sequence_once_and_pad_little():
    lengths = np.random.default_rng(1).integers(1, 90, 200)
    sequences = HostSequences(lengths)
    members = torch.cat([group.members for group in sequences.padding.groups])
    assert sorted(members.tolist()) == list(range(200))
    padded = sum(group.size * group.length for group in sequences.padding.groups)
    assert padded < 1.25 * sum(lengths)


def test_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        HostSequences(np.array([3, 0]))
