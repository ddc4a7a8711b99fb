"""Heads by formula, the layer that several heads share, and what a model's outputs hold."""

import pytest
import torch

from concord.bert.errors import InputError
from concord.bert.heads import (
    CosineHead,
    Head,
    HeadSpec,
    SharedLayer,
    build_heads,
    cosine_head,
    hidden_head,
    linear_head,
    mapped_cosine_head,
)
from concord.bert.multitask import MultitaskModel
from concord.kernels.dropout import DropoutStream
from tests.assertions import assert_close
from tests.samples import random_batch, small_encoder

WIDTH = 8


def initialised(head):
    head.initialise(torch.Generator().manual_seed(3))
    for parameter in head.parameters():
        parameter.data += torch.randn(parameter.shape) / 4
    return head


def cosine(u, v):
    return (u @ v / (u.norm() * v.norm())).item()


def test_a_pair_is_read_with_or_without_its_difference_and_product():
    pooled = torch.randn(6, WIDTH)
    for features, width in (("product", 4), ("difference", 3), ("concatenation", 2)):
        head = initialised(Head(WIDTH, 2, pair=True, dropout=0.0, pair_features=features))
        assert head.weight.shape == (2, width * WIDTH)
        for example, logits in enumerate(head(pooled, None)):
            u, v = pooled[2 * example], pooled[2 * example + 1]
            read = torch.cat([u, v, (u - v).abs(), u * v][:width])
            assert_close(logits, head.weight @ read + head.bias, 1e-5)


def test_hidden_layers_are_linear_maps_with_a_relu_before_the_last_one():
    head, pooled = initialised(Head(WIDTH, 3, pair=True, dropout=0.0, hidden_layers=2)), torch.randn(2, WIDTH)
    state = torch.cat([pooled[0], pooled[1], (pooled[0] - pooled[1]).abs()])
    for layer in head.hidden:
        state = (layer.weight @ state + layer.bias).clamp(min=0)
    assert state.shape == (WIDTH,)
    assert_close(head(pooled, None)[0], head.weight @ state + head.bias, 1e-5)


def test_new_hidden_layers_keep_the_size_of_what_passes_them():
    head = Head(512, 1, pair=False, dropout=0.0, hidden_layers=2)
    head.initialise(torch.Generator().manual_seed(1))
    state = torch.randn(64, 512)
    for layer in head.hidden:
        state = layer(state).relu()
    assert 0.7 < state.square().mean() < 1.4


def test_a_cosine_head_answers_the_cosine_and_zero_where_it_is_negative():
    u = torch.randn(WIDTH)
    v = torch.randn(WIDTH)
    pooled = torch.stack([u, v, u, -v, u, u])
    expected = [max(0.0, cosine(u, v)), max(0.0, -cosine(u, v)), 1.0]
    head = CosineHead(WIDTH, mapped=False, dropout=0.5)
    assert not list(head.parameters())
    assert head(pooled, DropoutStream(torch.tensor(1)))[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_mapped_cosine_is_that_of_one_linear_map_of_both():
    head, pooled = initialised(CosineHead(WIDTH, mapped=True, dropout=0.0)), torch.randn(8, WIDTH)
    found = head(pooled, None)[:, 0].tolist()
    mapped = pooled @ head.map.weight.t() + head.map.bias
    assert found == pytest.approx([cosine(u, v) for u, v in mapped.view(4, 2, WIDTH)], abs=1e-5)
    assert min(found) < 0
    assert found != pytest.approx([cosine(u, v) for u, v in pooled.view(4, 2, WIDTH)], abs=1e-2)


@pytest.mark.parametrize(
    "head", [Head(WIDTH, 1, pair=True, dropout=0.5, hidden_layers=2), CosineHead(8, mapped=True, dropout=0.5)]
)
def test_dropout_happens_only_where_a_stream_is_given(head):
    pooled, head = torch.randn(6, WIDTH), initialised(head)
    assert torch.equal(head(pooled, None), head(pooled, None))
    assert not torch.allclose(head(pooled, DropoutStream(torch.tensor(1))), head(pooled, None))


def test_heads_are_built_as_they_are_described():
    common = {"outputs": 1, "pair": True, "link": "identity", "centre": 0.5}
    common |= {"hidden_size": WIDTH, "pair_features": "concatenation", "dropout": 0.0}
    builders = {"linear": linear_head, "hidden": hidden_head, "cosine": cosine_head, "mapped": mapped_cosine_head}
    kinds = tuple(builders)
    specs = {
        kind: HeadSpec(build=build, learns_variance=kind != "linear", **common) for kind, build in builders.items()
    }
    heads = build_heads(specs, seed=1)
    assert tuple(heads) == kinds
    assert [len(heads[kind].hidden) for kind in kinds[:2]] == [0, 2]
    assert [heads[kind].bias.tolist() for kind in kinds[:2]] == [[0.5], [0.5]]
    assert heads["linear"].weight.shape == (1, 2 * WIDTH)
    assert [heads[kind].map is None for kind in kinds[2:]] == [True, False]
    assert heads["linear"].log_variance is None
    assert all(heads[kind].log_variance.tolist() == [0] for kind in kinds[1:])


def shared_model(readers=("b", "c")):
    heads = {name: initialised(Head(32, 1, pair=False, dropout=0.0)) for name in "abc"}
    layer = SharedLayer(32, readers)
    layer.initialise(torch.Generator().manual_seed(2))
    return MultitaskModel(small_encoder(), heads, shared_layer=layer)


def shared_gradient(model):
    entry = next(entry for entry in model.shared.entries if entry.name == "shared_layer.weight")
    return model.shared.view(model.shared.gradients, entry)


def test_named_tasks_read_through_the_shared_layer_and_embeddings_are_what_heads_are_given():
    model, batch = shared_model(), random_batch((2, 3, 1))
    pooled = model.encoder(batch).pooled.detach()
    through = (pooled @ model.shared_layer.weight.t() + model.shared_layer.bias).clamp(min=0)
    outputs = model(batch)
    for name, rows, read in (("a", slice(0, 2), pooled), ("b", slice(2, 5), through), ("c", slice(5, 6), through)):
        assert_close(outputs[name].embeddings, read[rows], 1e-5)
        assert outputs[name].embeddings.dtype == outputs[name].logits.dtype == torch.float32
        head = model.heads[name]
        assert_close(outputs[name].logits, read[rows] @ head.weight.t() + head.bias, 1e-5)
    assert model.shared.block_names[-1] == "shared_layer"


def test_the_shared_layer_has_a_gradient_of_each_task():
    model, batch = shared_model(), random_batch((2, 3, 1))
    pooled = model.encoder(batch).pooled.detach()
    weight, bias = (
        value.clone().requires_grad_() for value in (model.shared_layer.weight.data, model.shared_layer.bias.data)
    )
    read = (pooled @ weight.t() + bias).relu()
    expected = []
    for name, rows in (("b", slice(2, 5)), ("c", slice(5, 6))):
        loss = (read[rows] @ model.heads[name].weight.t().detach()).square().sum()
        expected.append(torch.autograd.grad(loss, weight, retain_graph=True)[0])
    outputs = model(batch)
    sum((output.logits - model.heads[name].bias.detach()).square().sum() for name, output in outputs.items()).backward()
    found = shared_gradient(model)
    assert found[0].abs().max() == 0
    assert_close(found[1], expected[0], 1e-4)
    assert_close(found[2], expected[1], 1e-4)


def test_a_batch_without_readers_leaves_no_old_gradient_in_the_shared_layer():
    model = shared_model()
    model.shared.gradients.fill_(7.0)
    model(random_batch((3, 0, 0)))["a"].logits.square().sum().backward()
    assert shared_gradient(model).abs().max() == 0


def test_a_saved_shared_layer_comes_back_and_a_missing_one_is_named(tmp_path):
    model, other = shared_model(), shared_model()
    model.shared_layer.weight.data += 1
    model.heads["a"].bias.data += 1
    model.save(tmp_path)
    other.load(tmp_path)
    assert torch.equal(other.shared.master, model.shared.master)
    assert torch.equal(other.private.master, model.private.master)
    plain = MultitaskModel(small_encoder(), {name: initialised(Head(32, 1, pair=False, dropout=0.0)) for name in "abc"})
    plain.load(tmp_path)
    (tmp_path / "plain").mkdir()
    plain.save(tmp_path / "plain")
    with pytest.raises(InputError, match=r"shared_layer.weight is nothing, expected \[32, 32\]"):
        other.load(tmp_path / "plain")


def test_heads_without_parameters_keep_their_buffers_on_the_encoders_device():
    encoder = small_encoder().to("meta")
    model = MultitaskModel(encoder, {"sts": CosineHead(32, mapped=False, dropout=0.0)})
    assert model.private.size == 0
    assert model.private.master.device.type == model.private.gradients.device.type == "meta"
