"""Every op's own backward against finite differences, in fp64, with dropout on and off."""

import numpy as np
import pytest
import torch

from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.dropout import Dropout
from concord.kernels.embedding import embedding
from concord.kernels.gelu import bias_gelu
from concord.kernels.layer_norm import add_layer_norm
from concord.kernels.layout.sequences import HostSequences
from concord.kernels.linear import linear


def random(*shape):
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    ).requires_grad_()


@pytest.fixture(params=[None, 0.3], ids=["plain", "dropout"])
def dropout(request):
    return None if request.param is None else Dropout(request.param, torch.tensor(5), 2)


def test_linear():
    assert torch.autograd.gradcheck(linear, (random(5, 3), random(4, 3), random(4)))


def test_bias_gelu():
    assert torch.autograd.gradcheck(bias_gelu, (random(5, 3), random(3)))


def test_add_layer_norm(dropout):
    def op(*tensors):
        return add_layer_norm(*tensors, 1e-12, dropout)

    assert torch.autograd.gradcheck(op, (random(4, 6), random(6), random(4, 6), random(6), random(6)))


def test_embedding(dropout):
    ids, positions = torch.tensor([1, 4, 1, 0]), torch.tensor([0, 1, 2, 0])
    segments = torch.tensor([0, 0, 1, 0])

    def op(words, position_table, segment_table, gamma, beta):
        tables = (words, position_table, segment_table)
        return embedding(ids, positions, segments, tables, gamma, beta, 1e-12, dropout)

    assert torch.autograd.gradcheck(op, (random(5, 4), random(3, 4), random(2, 4), random(4), random(4)))


def test_attention(dropout):
    sequences = HostSequences(np.array([3, 1, 4, 2]))
    assert torch.autograd.gradcheck(lambda qkv: attention(qkv, sequences, dropout), (random(10, 3, 2, 2),))


def test_first_token_attention(dropout):
    sequences = HostSequences(np.array([3, 1, 4, 2]))

    def op(q, kv):
        return first_token_attention(q, kv, sequences, dropout)

    assert torch.autograd.gradcheck(op, (random(4, 2, 2), random(10, 2, 2, 2)))
