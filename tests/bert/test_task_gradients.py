"""One packed backward yields every task's gradient: equal to separate backwards, whatever the tasks' sizes.

On a GPU the packed one is of the kernels there, the separate ones are of the references on the CPU.
"""

import pytest
import torch

from concord.bert.batch import pack
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import DropoutStream
from concord.kernels.layout.flat import FlatParameters
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE, DTYPES
from tests.samples import random_tokens, small_encoder


def separate_gradients(task_tokens, upstream):
    """Name -> [T, *shape], from one ordinary backward a task on a batch of its own."""
    gradients = []
    for tokens, weights in zip(task_tokens, upstream, strict=True):
        encoder = small_encoder()
        if len(tokens.lengths):
            (encoder(pack([tokens])).pooled * weights).sum().backward()
        gradients.append(
            {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in encoder.named_parameters()}
        )
    return {name: torch.stack([row[name] for row in gradients]) for name in gradients[0]}


def upstream_for(task_tokens, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(tokens.lengths), 32, generator=generator) for tokens in task_tokens]


def flat_encoder(tasks, **more):
    encoder = small_encoder().to(DEVICE)
    return encoder, FlatParameters(dict(encoder.named_parameters()), encoder.blocks(), tasks=tasks, **more)


def assert_same(flat, expected):
    assert {entry.name for entry in flat.entries} == set(expected)
    for entry in flat.entries:
        assert_close(flat.view(flat.gradients, entry).cpu(), expected[entry.name], 1e-5)


@pytest.mark.parametrize("all_tokens", [False, True])
@pytest.mark.parametrize("counts", [(6,), (1, 9), (4, 1, 7), (3, 0, 5), (2, 1, 4, 1, 3)])
def test_one_packed_backward_equals_one_backward_a_task(counts, all_tokens):
    task_tokens = [random_tokens(count, (7, task)) for task, count in enumerate(counts)]
    upstream = upstream_for(task_tokens)
    encoder, flat = flat_encoder(len(counts))
    flat.gradients.fill_(torch.nan)
    for entry in flat.entries:  # the padding between parameters belongs to nobody and stays zero
        flat.view(flat.gradients, entry).fill_(1e3)
    pooled = encoder(pack(task_tokens, DEVICE), all_tokens=all_tokens).pooled
    (pooled * torch.cat(upstream).to(DEVICE)).sum().backward()
    assert_same(flat, separate_gradients(task_tokens, upstream))


def test_micro_batches_add_up_and_a_task_may_be_absent_from_one():
    first = [random_tokens(count, (1, task)) for task, count in enumerate((3, 0, 4))]
    second = [random_tokens(count, (2, task)) for task, count in enumerate((0, 2, 1))]
    encoder, flat = flat_encoder(3)
    expected = {}
    for number, task_tokens in enumerate((first, second)):
        upstream = upstream_for(task_tokens, seed=number)
        batch = pack(task_tokens, DEVICE, accumulate=number > 0)
        (encoder(batch).pooled * torch.cat(upstream).to(DEVICE)).sum().backward()
        for name, gradients in separate_gradients(task_tokens, upstream).items():
            expected[name] = expected.get(name, 0) + gradients
    assert_same(flat, expected)


@pytest.mark.parametrize("kernels", ["torch"] + ["triton"] * (torch.bfloat16 in DTYPES))
def test_under_bf16_matrices_are_read_from_the_copy_and_gradients_stay_close(kernels):
    task_tokens = [random_tokens(count, (3, task)) for task, count in enumerate((4, 5))]
    upstream = upstream_for(task_tokens)
    encoder, flat = flat_encoder(2, compute_dtype=torch.bfloat16, gradient_dtype=torch.bfloat16)
    assert encoder.layers[0].qkv.weight.dtype == torch.bfloat16
    assert encoder.layers[0].qkv.bias.dtype == torch.float32
    with using_kernels(kernels):
        pooled = encoder(pack(task_tokens, DEVICE)).pooled
        (pooled.float() * torch.cat(upstream).to(DEVICE)).sum().backward()
    expected = separate_gradients(task_tokens, upstream)
    for entry in flat.entries:
        if entry.name.endswith("qkv.bias"):
            continue  # the key third's gradient is zero but for rounding
        assert_close(flat.view(flat.gradients, entry).cpu(), expected[entry.name], 6e-2)


@pytest.mark.slow
def test_torch_compile_takes_the_whole_encoder_with_its_kernels():
    task_tokens = [random_tokens(count, (9, task)) for task, count in enumerate((3, 4))]
    encoder, flat = flat_encoder(2)
    batch, seed = pack(task_tokens, DEVICE), torch.tensor(7, device=DEVICE)

    def gradients(function):
        for entry in flat.entries:
            flat.view(flat.gradients, entry).fill_(torch.nan)
        flat.touched.fill_(1)
        function(batch, seed).backward()
        return flat.gradients.clone()

    def loss(batch, seed):
        return encoder(batch, DropoutStream(seed)).pooled.square().sum()

    with using_kernels("triton"):
        expected = gradients(loss)
        found = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"))
    assert torch.equal(found, expected)
