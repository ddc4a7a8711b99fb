"""What sentence-transformers' files say of a model, as each of its releases writes them, and the pooler among them."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from concord import load
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.heads import Head
from concord.bert.models import load_model, sentence_settings
from concord.bert.multitask import MultitaskModel
from concord.bert.sentence_files import SentenceSettings, write_pooler, write_sentence_settings
from concord.bert.weights import to_hugging_face, write_safetensors

TANH = "torch.nn.modules.activation.Tanh"
NAMED = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
BEFORE = "sentence_transformers.models."
SINCE_6 = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}
TEXTS = ["a good film", "another one is bad", "a good film and " * 40 + "bad"]
# In a process of its own: the library is not imported beside the project.
SAVES = """
import sys, numpy as np, torch
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
if len(model) > 2:
    torch.manual_seed(0)
    torch.nn.init.normal_(model[2].linear.weight, std=0.2)
model.save(sys.argv[2])
np.save(sys.argv[2] + "/found.npy", model.encode(eval(sys.argv[3])))
"""


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_model(directory, kind="bert", **sizes):
    """A model directory with the tiny vocabulary and random weights; its encoder."""
    directory.mkdir()
    sizes = {"vocab_size": 2048, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2} | sizes
    encoder = Encoder(BertConfig(model_type=kind, intermediate_size=64, **sizes))
    encoder.initialise(3)
    for parameter in encoder.parameters():  # large enough for texts to have different embeddings
        parameter.data *= 5 if parameter.ndim > 1 else 1
    own = dict(encoder.named_parameters())
    if not encoder.config.kind.pooler_is_the_encoders:
        own = {name: value for name, value in own.items() if not name.startswith("pooler.")}
    tensors = to_hugging_face(own, encoder.config.kind).items()
    write_safetensors(
        directory / "model.safetensors", {encoder.config.kind.prefix + name: value for name, value in tensors}
    )
    encoder.config.write(directory / "config.json")
    load_model("tiny", seed=0).tokenizer.save(directory)
    return encoder


def write_dense(directory, size=32, rows=None, scale=1.0):
    """The weights of a dense layer, which are returned by the names of a pooler."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(rows or size, size, generator=generator) * scale
    tensors = {"linear.weight": weight, "linear.bias": torch.randn(rows or size, generator=generator)}
    (directory / "2_Dense").mkdir(exist_ok=True)
    save_file(tensors, directory / "2_Dense" / "model.safetensors")  # as the library does, without a digest
    return tensors


def write_files(directory, kinds, pooling, dense=None, longest=None, model_max_length=None, types=SINCE_6):
    """The files of sentence-transformers, whose kinds are e.g. Transformer Pooling."""
    folders = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds.split()[1:], 1))]
    modules = [{"idx": n, "path": folders[n], "type": types[kind]} for n, kind in enumerate(kinds.split())]
    write(directory / "modules.json", modules)
    write(directory / "1_Pooling" / "config.json", pooling)
    write(directory / "sentence_bert_config.json", {} if longest is None else {"max_seq_length": longest})
    if dense is not None:
        size = {"in_features": 32, "out_features": 32, "bias": True, "activation_function": TANH}
        write(directory / "2_Dense" / "config.json", size | dense)
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    write(directory / "tokenizer_config.json", tokenizer | {"model_max_length": model_max_length})


MEAN, CLS = {"pooling_mode_mean_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


@pytest.mark.parametrize(
    ("kinds", "pooling", "dense", "expected"),
    [
        ("Transformer Pooling", {"pooling_mode": "mean"}, None, "mean"),
        ("Transformer Pooling Normalize", {"pooling_mode": ["mean"], "include_prompt": True}, None, "mean"),
        ("Transformer Pooling", MEAN, None, "mean"),
        ("Transformer Pooling", MEAN | {"pooling_mode": "mean"}, None, "mean"),
        ("Transformer Pooling", MEAN | {"pooling_mode": "max"}, None, ""),
        ("Transformer Pooling", MEAN | {"pooling_mode_max_tokens": True}, None, ""),
        ("Transformer Pooling", {"pooling_mode": ["mean", "cls"]}, None, ""),
        ("Transformer Pooling", {"pooling_mode": "mean_sqrt_len_tokens"}, None, ""),
        ("Transformer Pooling", {"pooling_mode": 3}, None, ""),
        ("Transformer Pooling", {"pooling_mode": "cls"}, None, ""),
        ("Transformer Pooling Dense", {"pooling_mode": "mean"}, {}, ""),
        ("Transformer Pooling Dense", CLS, {}, "cls"),
        ("Transformer Pooling Dense", {"pooling_mode": "cls"}, NAMED, "cls"),
        ("Transformer Pooling Dense Normalize", {"pooling_mode": "cls"}, NAMED | {"use_residual": False}, "cls"),
        ("Transformer Pooling Dense", CLS, {"use_residual": True}, ""),
        ("Transformer Pooling Dense", CLS, {"module_output_name": "scores"}, ""),
        ("Transformer Pooling Dense", CLS, {"module_input_name": "token_embeddings"}, ""),
        ("Transformer Pooling Dense", CLS, {"bias": False}, ""),
        ("Transformer Pooling Dense", CLS, {"out_features": 16}, ""),
        ("Transformer Pooling Dense", CLS, {"in_features": "32", "out_features": "32"}, ""),
        ("Transformer Pooling Dense", CLS, {"activation_function": "torch.nn.modules.linear.Identity"}, ""),
        ("Transformer Pooling Dense Dense", CLS, {}, ""),
    ],
)
@pytest.mark.parametrize("types", [SINCE_6, {kind: BEFORE + kind for kind in SINCE_6}])
def test_the_pooling_is_known_by_whatever_release_wrote_it_and_nothing_else_is(
    tmp_path, kinds, pooling, dense, expected, types
):
    write_model(tmp_path / "model")
    write_files(tmp_path / "model", kinds, pooling, dense, types=types)
    write_dense(tmp_path / "model")
    assert sentence_settings(str(tmp_path / "model")).pooling == expected


@pytest.mark.parametrize(
    ("longest", "model_max_length", "expected"),
    [(24, 48, 24), (None, 48, 48), (0, 48, 48), (None, None, 0), (None, 10**30, 0), (None, 1e30, 0), (None, 4096, 60)],
)
def test_texts_are_cut_where_the_tokenizer_says_it_if_nothing_else_does(tmp_path, longest, model_max_length, expected):
    write_model(tmp_path / "model", max_position_embeddings=60)
    write_files(tmp_path / "model", "Transformer Pooling", MEAN, None, longest, model_max_length)
    assert sentence_settings(str(tmp_path / "model")) == SentenceSettings("mean", expected)


@pytest.mark.parametrize("longest", ["48", -1, 0, 48.5, True, float("nan")])
def test_a_limit_that_is_no_number_of_tokens_is_refused(tmp_path, longest):
    write_model(tmp_path / "model")
    write_files(tmp_path / "model", "Transformer Pooling", MEAN, model_max_length=longest)
    with pytest.raises(InputError, match=r"tokenizer_config\.json: model_max_length is .*, expected a positive whole"):
        sentence_settings(str(tmp_path / "model"))


@pytest.mark.parametrize(("kind", "activation"), [("bert", TANH), ("distilbert", "torch.nn.modules.activation.ReLU")])
def test_the_dense_layer_that_follows_is_the_encoders_pooler(tmp_path, kind, activation):
    model = tmp_path / "model"
    own = write_model(model, kind).pooler.weight
    write_files(model, "Transformer Pooling Dense", CLS, {"activation_function": activation})
    dense = write_dense(model)
    found = load_model(str(model), seed=0)
    assert found.origin == str(model)
    assert torch.equal(found.encoder.pooler.weight, dense["linear.weight"])
    assert torch.equal(found.encoder.pooler.bias, dense["linear.bias"])
    assert not torch.equal(found.encoder.pooler.weight, own)


def test_a_dense_layer_without_weights_is_not_taken_for_the_encoders_own_pooler(tmp_path):
    write_model(tmp_path / "model")
    write_files(tmp_path / "model", "Transformer Pooling Dense", CLS, {})
    assert sentence_settings(str(tmp_path / "model")).pooling == ""
    with pytest.raises(InputError, match=r"pools as Concord does not, expected pooling= cls or mean"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"rows": 16}, r"linear\.weight is \[16, 32\], expected \[32, 32\]"),
        ({"scale": float("nan")}, r"linear\.weight has values that are not finite"),
    ],
)
def test_a_dense_layer_of_other_weights_than_it_says_is_refused(tmp_path, more, expected):
    write_model(tmp_path / "model")
    write_files(tmp_path / "model", "Transformer Pooling Dense", CLS, {})
    write_dense(tmp_path / "model", **more)
    for read in (sentence_settings, lambda name: load_model(name, seed=0)):
        with pytest.raises(InputError, match=r"2_Dense.model\.safetensors: " + expected):
            read(str(tmp_path / "model"))


def test_a_dense_layer_of_another_width_than_the_encoders_is_refused_by_its_own_name(tmp_path):
    write_model(tmp_path / "model")
    write_files(tmp_path / "model", "Transformer Pooling Dense", CLS, {"in_features": 16, "out_features": 16})
    write_dense(tmp_path / "model", 16)
    with pytest.raises(InputError, match=r"2_Dense.model\.safetensors: linear\.weight is \[16, 16\], expected \[32,"):
        load_model(str(tmp_path / "model"), seed=0)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_runs_own_pooler_comes_before_the_copy_of_it_and_after_a_layer_that_was_trained_on(tmp_path, kind):
    best = tmp_path / "best"
    encoder = write_model(best, kind)
    head = Head(32, 1, pair=False, dropout=0.0)
    head.initialise(torch.Generator().manual_seed(0))
    own = encoder.pooler.weight.detach().clone()
    MultitaskModel(encoder, {"a": head}).save(best)
    write_sentence_settings(best, SentenceSettings("cls", 32), 32, encoder.config.kind.pooling)
    # A run that was killed here has written the pooler of a later step.
    write_pooler(best, {"pooler.weight": torch.ones(32, 32), "pooler.bias": torch.ones(32)})
    assert torch.equal(load_model(str(best), seed=0).encoder.pooler.weight, own)
    dense = write_dense(best)
    assert torch.equal(load_model(str(best), seed=0).encoder.pooler.weight, dense["linear.weight"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="it is not installed")
@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("bert", "cls"), ("distilbert", "cls")])
def test_what_sentence_transformers_saves_has_its_embeddings_here(tmp_path, kind, pooling):
    encoder = write_model(tmp_path / "model", kind)
    write_sentence_settings(tmp_path / "model", SentenceSettings(pooling, 16), 32, encoder.config.kind.pooling)
    if pooling == "cls":
        write_pooler(tmp_path / "model", dict(encoder.named_parameters()))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    saved = str(tmp_path / "saved")
    subprocess.run(
        [sys.executable, "-P", "-c", SAVES, str(tmp_path / "model"), saved, repr(TEXTS)],
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert sentence_settings(saved) == SentenceSettings(pooling, 16)
    with pytest.warns(UserWarning, match="1 texts were longer than 16"):
        found = load(saved, device="cpu").encode(TEXTS, normalize=False)
    np.testing.assert_allclose(found, np.load(f"{saved}/found.npy"), rtol=0, atol=1e-5)
