"""The masked language model against plain autograd through whole logits, its tied table above all, and its files."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from concord.bert.batch import TaskTokens, pack
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.weights import load_weights
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import DropoutStream
from tests.assertions import assert_close
from tests.samples import SMALL, random_tokens, small_encoder

# Runs outside the repository, whose room kernels/ transformers would take for a package of its own.
REFERENCE = """
import sys
import numpy as np, torch
from transformers import BertForMaskedLM
data = np.load("in.npz")
model, loading = BertForMaskedLM.from_pretrained(".", output_loading_info=True)
assert not loading["missing_keys"], loading
ids = torch.from_numpy(data["ids"]).long()[None]
scores = model.eval()(ids).logits[0][torch.from_numpy(data["positions"])]
print(torch.nn.functional.cross_entropy(scores, torch.from_numpy(data["targets"])).item())
"""


def new_head():
    head = LanguageModelHead(SMALL)
    head.initialise(2)
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return head


def masked_batch(seed, masked=4, **more):
    """A batch, the positions that count and what has to be named there."""
    tokens = random_tokens(3, seed, longest=7)
    random = np.random.default_rng(seed)
    positions = np.sort(random.choice(len(tokens.ids), masked, replace=False))
    targets = random.integers(0, SMALL.vocab_size, masked)
    return pack([tokens], **more), torch.from_numpy(positions), torch.from_numpy(targets)


def plain_loss(encoder, head, batch, positions, targets):
    """The same through the scores of the whole vocabulary, with ordinary gradients."""
    hidden = encoder(batch, all_tokens=True).hidden[positions]
    x = functional.gelu(functional.linear(hidden, head.dense.weight, head.dense.bias))
    x = functional.layer_norm(x, (SMALL.hidden_size,), head.norm.weight, head.norm.bias, head.norm.epsilon)
    return functional.cross_entropy(x @ encoder.embeddings.words.t() + head.bias, targets)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_loss_and_gradients_of_two_micro_batches_equal_plain_autograd(kernels):
    encoder, head = small_encoder(), new_head()
    model = MaskedLanguageModel(small_encoder(), new_head())
    model.shared.gradients.fill_(torch.nan)
    for number in range(2):
        inputs = masked_batch(number, accumulate=number > 0)
        expected = plain_loss(encoder, head, *inputs)
        expected.backward()
        with using_kernels(kernels):
            found = model(*inputs)
            found.backward()
        assert_close(found, expected, 1e-5)
    plain = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    assert len(model.shared.entries) == len(plain) - 2, "all but the pooler's two"
    scale = max(gradient.norm() for gradient in plain.values() if gradient is not None)
    for entry in model.shared.entries:
        found = model.shared.view(model.shared.gradients, entry)[0]
        if entry.name.endswith("qkv.bias"):  # the key third's gradient is zero but for rounding
            assert (found - plain[entry.name]).norm() < 1e-4 * scale
        else:
            assert_close(found, plain[entry.name], 2e-4)
    for name, parameter in head.named_parameters():
        entry = next(entry for entry in model.private.entries if entry.name == name)
        assert_close(model.private.view(model.private.gradients, entry)[0], parameter.grad, 1e-4)


def test_without_masked_wordpieces_loss_and_gradients_are_zero():
    model = MaskedLanguageModel(small_encoder(), new_head())
    for entry in model.shared.entries:
        model.shared.view(model.shared.gradients, entry).fill_(1e3)
    loss = model(*masked_batch(1, masked=0))
    loss.backward()
    assert loss.item() == 0
    assert not model.shared.gradients.any()
    assert not model.private.gradients.any()


def test_in_low_precision_matrices_are_read_from_the_copy():
    inputs = masked_batch(3)
    model = MaskedLanguageModel(
        small_encoder(), new_head(), compute_dtype=torch.bfloat16, gradient_dtype=torch.bfloat16
    )
    assert model.encoder.layers[0].qkv.weight.dtype == torch.bfloat16
    assert model.shared.compute is not model.shared.master
    loss = model(*inputs)
    loss.backward()
    assert loss.dtype == torch.float32
    assert_close(loss, plain_loss(small_encoder(), new_head(), *inputs), 3e-2)
    assert model.shared.gradients.isfinite().all()


def test_scores_are_the_summed_loss_and_the_right_answers(monkeypatch):
    monkeypatch.setattr("concord.bert.language_model._SCORED_AT_ONCE", 3)
    batch, positions, targets = masked_batch(4, masked=5)
    model = MaskedLanguageModel(small_encoder(), new_head())
    loss, correct = model.score(batch, positions, targets)
    assert_close(loss, model(batch, positions, targets) * 5, 1e-5)
    answers = torch.tensor(
        [
            min(range(SMALL.vocab_size), key=lambda word: model.score(batch, position[None], torch.tensor([word]))[0])
            for position in positions
        ]
    )
    assert model.score(batch, positions, answers)[1] == 5
    assert correct == (answers == targets).sum()


def test_dropout_happens_where_a_stream_is_given():
    model, inputs = MaskedLanguageModel(small_encoder(), new_head()), masked_batch(5)
    assert not torch.allclose(model(*inputs, DropoutStream(torch.tensor(1))), model(*inputs))


def test_its_file_has_hugging_faces_names_and_gives_back_encoder_and_head(tmp_path):
    path = tmp_path / "model.safetensors"
    model = MaskedLanguageModel(small_encoder(), new_head(), compute_dtype=torch.bfloat16)
    model.save(path)
    tensors = load_file(path)
    assert {name for name in tensors if name.startswith("cls.")} == {
        "cls.predictions.bias",
        *(f"cls.predictions.transform.{part}.{kind}" for part in ("dense", "LayerNorm") for kind in ("weight", "bias")),
    }
    assert {"bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight"} <= tensors.keys()
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    encoder, head = Encoder(SMALL), LanguageModelHead(SMALL)
    load_weights(encoder, path, seed=0)
    assert head.load(tensors, "here")
    for module, expected in ((encoder, small_encoder()), (head, new_head())):
        for (name, parameter), other in zip(module.named_parameters(), expected.parameters(), strict=True):
            assert torch.equal(parameter, other), name


@pytest.mark.slow
def test_transformers_reads_the_file_and_finds_the_same_loss(tmp_path):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    model = MaskedLanguageModel(small_encoder(), new_head())
    model.save(tmp_path / "model.safetensors")
    SMALL.write(tmp_path / "config.json")
    ids = np.random.default_rng(0).integers(0, SMALL.vocab_size, 12)
    positions, targets = np.array([2, 5, 11]), np.array([7, 8, 9])
    np.savez(tmp_path / "in.npz", ids=ids, positions=positions, targets=targets)
    batch = pack([TaskTokens(ids=ids, segments=np.zeros_like(ids), lengths=np.array([12]))])
    found = model(batch, torch.from_numpy(positions), torch.from_numpy(targets))
    (tmp_path / "reference.py").write_text(REFERENCE)
    printed = subprocess.run([sys.executable, "reference.py"], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert found.item() == pytest.approx(float(printed.stdout.splitlines()[-1]), rel=1e-5)


def test_a_head_is_taken_whole_or_not_at_all():
    model = new_head()
    tensors = {
        f"cls.predictions.{name}": value
        for name, value in (
            ("bias", model.bias),
            *((f"transform.dense.{kind}", getattr(model.dense, kind)) for kind in ("weight", "bias")),
            ("transform.LayerNorm.gamma", model.norm.weight),
            ("transform.LayerNorm.beta", model.norm.bias),
        )
    }
    head = LanguageModelHead(SMALL)
    head.initialise(9)
    before = head.dense.weight.clone()
    assert not head.load({name: value for name, value in tensors.items() if name != "cls.predictions.bias"}, "here")
    assert torch.equal(head.dense.weight, before)
    with pytest.raises(InputError, match=r"^here: cls\.predictions\.bias is \[3\], expected \[50\]$"):
        head.load({**tensors, "cls.predictions.bias": torch.zeros(3)}, "here")
    assert torch.equal(head.dense.weight, before)
    untied = {
        "embeddings.word_embeddings.weight": torch.ones(50, 32),
        "cls.predictions.decoder.weight": torch.zeros(50, 32),
    }
    assert not head.load(tensors | untied, "here"), "its decoder is not the word table"
    assert torch.equal(head.dense.weight, before)
    tied = dict.fromkeys(untied, torch.ones(50, 32))
    assert LanguageModelHead(SMALL).load(tensors | tied, "here")
    assert head.load(tensors, "here"), "older names of LayerNorm's parameters count too"
    assert torch.equal(head.norm.weight, model.norm.weight)
