"""The attention kernels against fp64, short and tiled, with dropout, empty sequences and padding rows."""

import numpy as np
import pytest
import torch

from kernels import Dropout, HostSequences, attention, first_token_attention
from kernels.attention_kernels import attention_backward, attention_forward
from kernels.dispatch import using_kernels
from kernels.dropout import kernel_arguments
from kernels.first_token_kernels import first_token_backward, first_token_forward
from tests.kernels.parity import DEVICE, DTYPES, INTERPRETED, check_op, poisoned  # noqa: F401
from tests.tolerances import TOLERANCES, assert_close

SHORT, MIXED, LONG = (3, 1, 17, 2, 2), (64, 63, 1), (130, 7)


def dropout_of(rate):
    return Dropout(rate, torch.tensor(2**40 + 7, device=DEVICE), 3) if rate else None


def attention_op(lengths, dropout=None):
    sequences = HostSequences(np.array(lengths), DEVICE)
    return lambda activations, parameters, rows: attention(activations[0], sequences, dropout)


def first_token_op(lengths, dropout=None):
    sequences = HostSequences(np.array(lengths), DEVICE)
    return lambda activations, parameters, rows: first_token_attention(*activations, sequences, dropout)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(
    ("lengths", "heads", "size"),
    [((1,), 2, 32), (SHORT, 3, 32), (SHORT, 2, 8), (MIXED, 1, 64), (LONG, 2, 32), (LONG, 1, 64), (SHORT, 1, 128)],
)
@pytest.mark.usefixtures("poisoned")
def test_the_kernels_are_as_accurate_as_torch(lengths, heads, size, rate, dtype):
    qkv = random(sum(lengths), 3, heads, size)
    check_op(attention_op(lengths, dropout_of(rate)), [qkv], [], None, dtype)


@pytest.mark.usefixtures("poisoned")
def test_sequences_of_512_are_as_accurate_as_torch():
    lengths = (512, 1, 100)
    check_op(attention_op(lengths, dropout_of(0.1)), [random(sum(lengths), 3, 1, 64)], [], None, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(("lengths", "heads", "size"), [((1,), 1, 32), (SHORT, 3, 32), (LONG, 2, 64), (SHORT, 2, 8)])
@pytest.mark.usefixtures("poisoned")
def test_first_tokens_are_as_accurate_as_torch(lengths, heads, size, rate, dtype):
    q, kv = random(len(lengths), heads, size), random(sum(lengths), 2, heads, size)
    check_op(first_token_op(lengths, dropout_of(rate)), [q, kv], [], None, dtype)


@pytest.mark.parametrize("lengths", [SHORT, LONG])
def test_the_same_elements_drop_as_in_the_reference(lengths):
    # Equal scores and v = 1: an output is the share of kept keys, a multiple of 1 / length.
    qkv = torch.zeros(sum(lengths), 3, 2, 32, device=DEVICE)
    qkv[:, 2] = 1
    found = []
    for kernels in ("torch", "triton"):
        with using_kernels(kernels):
            found.append(attention(qkv, HostSequences(np.array(lengths), DEVICE), dropout_of(0.3)))
    assert_close(found[1], found[0], TOLERANCES[torch.float32])
    assert found[0].std() > 0.01


@pytest.mark.parametrize("max_length", [17, 130])
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.usefixtures("poisoned")
def test_rows_after_the_last_sequence_and_empty_sequences_give_zeros(max_length, rate):
    lengths, padding = (3, 17, 5), 40
    whole = random(sum(lengths) + padding, 3, 2, 32).to(DEVICE)
    upstream = random(sum(lengths) + padding, 2, 32).to(DEVICE)
    arguments = kernel_arguments(dropout_of(rate))
    exact = HostSequences(np.array(lengths), DEVICE).cu_seqlens
    # As in a batch of fixed size: the last boundary is repeated.
    repeated = torch.cat([exact, exact[-1:], exact[-1:]])
    with using_kernels("triton"):
        out, log_sums = attention_forward(whole, repeated, max_length, *arguments)
        gradient = attention_backward(upstream, whole, out, log_sums, repeated, max_length, *arguments)
        tokens = sum(lengths)
        part, part_sums = attention_forward(whole[:tokens], exact, max_length, *arguments)
        expected = attention_backward(upstream[:tokens], whole[:tokens], part, part_sums, exact, max_length, *arguments)
    assert torch.equal(out[:tokens], part)
    assert torch.equal(gradient[:tokens], expected)
    assert not out[tokens:].any()
    assert not gradient[tokens:].any()


@pytest.mark.usefixtures("poisoned")
def test_first_tokens_of_empty_sequences_and_rows_after_the_last_give_zeros():
    lengths, padding = (3, 17, 5), 70
    exact = HostSequences(np.array(lengths), DEVICE).cu_seqlens
    repeated = torch.cat([exact, exact[-1:], exact[-1:]])
    q, kv = random(5, 2, 32).to(DEVICE), random(sum(lengths) + padding, 2, 2, 32).to(DEVICE)
    arguments = kernel_arguments(dropout_of(0.2))
    out, *saved = first_token_forward(q, kv, repeated, *arguments)
    d_q, d_kv = first_token_backward(torch.ones_like(q), q, kv, *saved, repeated, *arguments)
    assert not out[3:].any()
    assert not d_q[3:].any()
    assert not d_kv[sum(lengths) :].any()
    assert d_kv[: sum(lengths)].isfinite().all()


@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device: the interpreter runs one program after the other")
@pytest.mark.cuda
def test_many_sequences_twice_are_bitwise_equal():
    lengths = np.random.default_rng(1).integers(1, 200, 300)
    op = attention_op(tuple(lengths), dropout_of(0.1))
    check_op(op, [random(lengths.sum(), 3, 12, 64)], [], None, torch.bfloat16)


@pytest.mark.parametrize("lengths", [SHORT, LONG])
def test_torch_compile_takes_the_ops_whole(lengths):
    sequences, dropout = HostSequences(np.array(lengths), DEVICE), dropout_of(0.2)
    qkv = random(sum(lengths), 3, 2, 32).to(DEVICE).requires_grad_()

    def function(qkv):
        first = qkv[sequences.first, 0]
        return attention(qkv, sequences, dropout).sum() + first_token_attention(first, qkv[:, 1:], sequences).sum()

    with using_kernels("triton"):
        (expected,) = torch.autograd.grad(function(qkv), qkv)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        (found,) = torch.autograd.grad(compiled(qkv), qkv)
    assert torch.equal(found, expected)
