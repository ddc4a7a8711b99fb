"""Mean pooling against the padded expression, on rows that end in padding and lengths that the device alone knows."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from concord.bert.batch import PackedBatch, pack
from concord.bert.heads import Head
from concord.bert.multitask import MultitaskModel
from concord.bert.pooling import mean_of_sequences
from concord.kernels.dispatch import using_kernels
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import Sequences
from tests.assertions import assert_close
from tests.samples import random_batch, random_tokens, small_encoder

LENGTHS, PADDING = (3, 1, 17, 5), 6


def device_sequences(device="cpu"):
    starts = torch.tensor(np.concatenate([[0], np.cumsum(LENGTHS)]), dtype=torch.int32, device=device)
    return Sequences(starts, starts[:-1].long(), max(LENGTHS))


def new_model():
    heads = {name: Head(32, 2, pair=False, dropout=0.0) for name in ("a", "b")}
    for head in heads.values():
        head.initialise(torch.Generator().manual_seed(1))
    return MultitaskModel(small_encoder(), heads, mean_pooling=True)


def padded_means(hidden):
    """The same by a mask over sequences that are padded to the longest."""
    total = sum(LENGTHS)
    padded = torch.nn.utils.rnn.pad_sequence(hidden[:total].split(list(LENGTHS)), batch_first=True)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return (padded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_padded_mean_and_its_gradient(dtype):
    hidden = torch.randn(sum(LENGTHS) + PADDING, 24).to(dtype)
    hidden[sum(LENGTHS) :] = torch.nan
    upstream = torch.randn(len(LENGTHS), 24).to(dtype)
    packed, reference = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    found, expected = mean_of_sequences(packed, device_sequences()), padded_means(reference)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3  # one rounding of the result
    assert_close(found, expected, tolerance)
    found.backward(upstream)
    expected.backward(upstream.double())
    assert_close(packed.grad, reference.grad, tolerance)
    assert not packed.grad[sum(LENGTHS) :].any(), "padding takes no gradient"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_waits_for_nothing_and_a_graph_replays_it():
    hidden = torch.randn(sum(LENGTHS) + PADDING, 8, device="cuda", requires_grad=True)
    sequences = device_sequences("cuda")

    def means():
        result = mean_of_sequences(hidden, sequences)
        return result, *torch.autograd.grad(result.square().sum(), hidden)

    expected = means()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        means()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = means()
    graph.replay()
    for found, right in zip(captured, expected, strict=True):
        assert torch.equal(found, right)


def test_a_models_heads_read_the_mean_of_the_last_layers_states():
    encoder, batch = small_encoder(), random_batch((3, 2))
    output = encoder(batch, mean_pooling=True)
    hidden = encoder(batch, all_tokens=True).hidden
    assert torch.equal(output.hidden, hidden)
    pieces = hidden.split(batch.sequences.lengths.tolist())
    assert_close(output.pooled, torch.stack([piece.mean(0) for piece in pieces]), 1e-6)


def test_the_poolers_task_gradients_stay_zero_and_all_others_are_written():
    model = new_model()
    for step in range(2):
        outputs = model(random_batch((3, 2), seed=step))
        sum(output.logits.square().sum() for output in outputs.values()).backward()
    for entry in model.shared.entries:
        gradients = model.shared.view(model.shared.gradients, entry)
        assert gradients.any() == (not entry.name.startswith("pooler."))


def test_a_batch_of_the_device_gives_the_models_outputs_and_gradients_of_the_hosts():
    """Its lengths are not on the host, and it ends in rows of no sequence."""
    host = pack([random_tokens(count, count, longest=6) for count in (2, 1)])

    def padded(values):
        return functional.pad(values, (0, PADDING), value=1)

    device = PackedBatch(
        ids=padded(host.ids),
        positions=padded(host.positions),
        segments=padded(host.segments),
        sequences=Sequences(host.sequences.cu_seqlens, host.sequences.first, 16),
        token_rows=TaskRows(offsets=host.token_rows.offsets, bounds=None),
        sequence_rows=host.sequence_rows,
    )
    results = []
    for batch, kernels in ((host, "torch"), (device, "triton")):
        model = new_model()
        model.shared.gradients.fill_(1.0)
        for entry in model.shared.entries:
            if entry.name.startswith("pooler."):
                model.shared.view(model.shared.gradients, entry).zero_()
        with using_kernels(kernels):
            outputs = model(batch)
            sum(output.logits.square().sum() for output in outputs.values()).backward()
        found = {entry.name: model.shared.view(model.shared.gradients, entry) for entry in model.shared.entries}
        results.append((torch.cat([output.logits for output in outputs.values()]), found))
    (expected, expected_gradients), (found, gradients) = results
    assert_close(found, expected, 1e-5)
    for name, gradient in gradients.items():
        if not name.endswith("qkv.bias"):  # the key third's gradient is zero but for rounding
            assert_close(gradient, expected_gradients[name], 1e-4)
