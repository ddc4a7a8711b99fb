"""Projected attention layers against a padded model in plain torch, forward and backward, and what they leave alone."""

import math

import pytest
import torch
from torch.nn import functional

from concord.bert.batch import pack
from concord.bert.errors import InputError
from concord.bert.heads import Head
from concord.bert.multitask import MultitaskModel
from concord.bert.pals import ProjectedAttention
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import DropoutStream
from tests.assertions import assert_close
from tests.samples import SMALL, random_batch, random_tokens, small_encoder

TASKS = ("a", "b", "c")
SIZE = 24


def new_pals(decoders=True, size=SIZE):
    pals = ProjectedAttention(SMALL, TASKS, size)
    generator = torch.Generator().manual_seed(3)
    pals.initialise(generator)
    for parameter in pals.parameters():
        if decoders:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return pals


def new_model(**more):
    heads = {name: Head(32, 2, pair=False, dropout=0.0) for name in TASKS}
    for head in heads.values():
        head.initialise(torch.Generator().manual_seed(1))
    return MultitaskModel(small_encoder(), heads, pals=new_pals(**more))


def attend(qkv, heads, mask):
    """Attention of padded sequences: qkv [sequences, length, 3 * n], mask [sequences, length]."""
    sequences, length, width = qkv.shape
    q, k, v = qkv.view(sequences, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def norm(x, weights):
    return functional.layer_norm(x, x.shape[-1:], weights.weight, weights.bias, weights.epsilon)


def padded_hidden(encoder, task, ids, segments, mask):
    """One task's padded sequences through the encoder and its projected attention, by the paper's formula."""
    tables = encoder.embeddings
    places = torch.arange(ids.shape[1]).expand_as(ids)
    x = norm(tables.words[ids] + tables.positions[places] + tables.segments[segments], tables.norm)
    for number, layer in enumerate(encoder.layers):
        context = attend(functional.linear(x, layer.qkv.weight, layer.qkv.bias), SMALL.num_attention_heads, mask)
        attended = functional.linear(context, layer.attention_output.weight, layer.attention_output.bias)
        attended = norm(x + attended, layer.attention_norm)
        inner = functional.gelu(functional.linear(attended, layer.intermediate.weight, layer.intermediate.bias))
        feed_forward = functional.linear(inner, layer.output.weight, layer.output.bias)
        low = x @ task.encoder.t()
        projected = attend(low @ task.qkv[number].t(), 12, mask) @ task.decoder.t()
        x = norm(attended + feed_forward + projected, layer.output_norm)
    return x


def reference_pooled(encoder, pals, batch):
    """Every sequence's pooled output, task by task, from padded tensors."""
    pooled = []
    lengths = batch.sequences.lengths
    ids, segments = (tensor.long().split(lengths.tolist()) for tensor in (batch.ids, batch.segments))
    for name, (_, own) in zip(TASKS, batch.sequence_rows.slices(), strict=True):
        if own.start == own.stop:
            continue
        padded = [torch.nn.utils.rnn.pad_sequence(pieces[own], batch_first=True) for pieces in (ids, segments)]
        mask = torch.arange(padded[0].shape[1]) < torch.from_numpy(lengths[own])[:, None]
        first = padded_hidden(encoder, pals[name], *padded, mask)[:, 0]
        pooled.append(torch.tanh(functional.linear(first, encoder.pooler.weight, encoder.pooler.bias)))
    return torch.cat(pooled)


@pytest.mark.parametrize("all_tokens", [False, True])
@pytest.mark.parametrize("counts", [(3, 0, 4), (2, 3, 1)])
def test_output_and_all_gradients_equal_the_padded_model(counts, all_tokens):
    batch = random_batch(counts)
    upstream = torch.randn(sum(counts), 32, dtype=torch.float64)
    results = []
    for run in (
        lambda encoder, pals: encoder(batch, all_tokens=all_tokens, pals=pals).pooled,
        lambda encoder, pals: reference_pooled(encoder, pals, batch),
    ):
        encoder, pals = small_encoder().double(), new_pals().double()
        pooled = run(encoder, pals)
        (pooled * upstream).sum().backward()
        found = {name: p.grad for module in (encoder, pals) for name, p in module.named_parameters()}
        results.append((pooled, found))
    (found, found_gradients), (expected, gradients) = results
    assert_close(found, expected, 1e-10)
    for name, gradient in gradients.items():
        absent = gradient is None
        if absent or name.endswith("qkv.bias"):  # the key third's gradient is zero but for rounding
            assert not absent or not found_gradients[name].any(), f"{name} belongs to a task that is absent"
            continue
        assert_close(found_gradients[name], gradient, 1e-9)


@pytest.mark.slow
def test_the_kernels_take_heads_of_any_width():
    """17 columns a head in the paper; here 3."""
    batch, model = pack([random_tokens(count, count, longest=6) for count in (2, 0, 1)]), new_model(size=36)
    results = {}
    for kernels in ("torch", "triton"):
        model.private.gradients.zero_()
        with using_kernels(kernels):
            outputs = model(batch, DropoutStream(torch.tensor(5)))
            sum(output.logits.square().sum() for output in outputs.values()).backward()
        results[kernels] = (torch.cat([output.logits for output in outputs.values()]), model.private.gradients.clone())
    for found, expected in zip(results["triton"], results["torch"], strict=True):
        assert_close(found, expected, 1e-4)


def test_new_layers_change_nothing_until_their_decoder_has_learned():
    batch, encoder = random_batch((2, 3, 1)), small_encoder()
    plain = encoder(batch).pooled
    pals = new_pals(decoders=False)
    assert torch.equal(encoder(batch, pals=pals).pooled, plain)
    encoder(batch, pals=pals).pooled.square().sum().backward()
    for task in pals.values():
        assert task.decoder.grad.any(), "a decoder of zero must not keep itself there"
        task.decoder.data -= 0.1 * task.decoder.grad
    assert not torch.allclose(encoder(batch, pals=pals).pooled, plain)


def test_a_tasks_layers_see_its_own_rows_alone():
    batch, model = random_batch((2, 3, 1)), new_model()
    before = {name: output.logits for name, output in model(batch).items()}
    model.pals["b"].decoder.data *= 2
    after = {name: output.logits for name, output in model(batch).items()}
    assert torch.equal(after["a"], before["a"])
    assert torch.equal(after["c"], before["c"])
    assert not torch.allclose(after["b"], before["b"])
    before["b"].sum().backward()
    for entry in model.private.entries:
        own = entry.name.startswith(("b.", "pals.b."))
        assert model.private.view(model.private.gradients, entry).any() == own


def test_attention_drops_out_where_a_stream_is_given():
    batch, pals, encoder = random_batch((2, 3, 1)), new_pals(), small_encoder()
    x = torch.randn(len(batch.ids), 32)
    rows = (batch.sequences, batch.token_rows)
    plain, first, again = (
        pals(0, x, *rows, None if seed is None else DropoutStream(torch.tensor(seed))) for seed in (None, 1, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, plain)
    assert encoder(batch, DropoutStream(torch.tensor(1)), pals=pals).pooled.isfinite().all()


def test_sizes_that_twelve_heads_do_not_divide_have_fewer():
    for size, heads in ((204, 12), (64, 8), (7, 7), (13, 1)):
        assert ProjectedAttention(SMALL, TASKS, size)._heads == heads


def test_the_parameters_are_private_to_their_task_and_their_matrices_decay():
    model = new_model()
    assert model.needs_host_lengths
    assert not MultitaskModel(small_encoder(), dict(model.heads)).needs_host_lengths
    assert model.private.block_names == list(TASKS)
    own = [entry for entry in model.private.entries if entry.name.startswith("pals.")]
    assert len(own) == len(TASKS) * (2 + SMALL.num_hidden_layers)
    for entry in own:
        assert entry.decays
        assert model.private.block_names[entry.block] == entry.name.split(".")[1]


def test_a_saved_model_holds_them(tmp_path):
    model, other = new_model(), new_model(decoders=False)
    model.save(tmp_path)
    other.load(tmp_path)
    assert torch.equal(other.private.master, model.private.master)
    (tmp_path / "without").mkdir()
    MultitaskModel(small_encoder(), dict(new_model().heads)).save(tmp_path / "without")
    with pytest.raises(InputError, match=r"heads.safetensors: pals\.a\.encoder is nothing, expected \[24, 32\]"):
        other.load(tmp_path / "without")
