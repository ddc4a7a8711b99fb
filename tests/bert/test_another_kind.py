"""What the table of kinds is judged by: an encoder of other mathematics is one more entry, and nothing else changes."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.kind_cases import SIZES
from concord.bert.batch import TaskTokens, pack
from concord.bert.kinds import ENCODERS
from concord.bert.models import load_model, read_encoder
from concord.bert.weights import load_weights, to_hugging_face, write_safetensors
from concord.kernels.layout.flat import FlatParameters
from concord.train import run
from concord.train.command import run_command
from tests.assertions import assert_close
from tests.modern_encoder import KIND, ModernConfig, ModernEncoder
from tests.samples import random_tokens
from tests.small_tokenizers import byte_level_json, script_strings
from tests.train.small_runs import command, write_course_data

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
SMALL = {
    **SIZES,
    "num_hidden_layers": 3,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "local_attention": 8,  # four tokens to each side, which is less than the longest sequence has
    "global_attn_every_n_layers": 2,
}
REFERENCE = """
import numpy as np, torch
from safetensors.torch import load_file
from transformers import AutoConfig, ModernBertForSequenceClassification
given = np.load("in.npz")
config = AutoConfig.from_pretrained(".", attn_implementation="eager")
model = ModernBertForSequenceClassification(config)
missing = model.load_state_dict(load_file("model.safetensors"), strict=False)
assert not missing.unexpected_keys and set(missing.missing_keys) == {"classifier.weight", "classifier.bias"}, missing
hidden, pooled, start = [], [], 0
for length in given["lengths"]:
    ids = torch.from_numpy(given["ids"][start : start + length])[None]
    hidden.append(model.model(ids).last_hidden_state[0])
    pooled.append(model.head(hidden[-1][:1])[0])
    start += length
(torch.stack(pooled) * torch.from_numpy(given["upstream"])).sum().backward()
gradients = {"gradient." + name: one.grad.numpy() for name, one in model.named_parameters() if one.grad is not None}
np.savez("out.npz", hidden=torch.cat(hidden).detach().numpy(), pooled=torch.stack(pooled).detach().numpy(), **gradients)
"""


@pytest.fixture(autouse=True)
def _one_entry_more(monkeypatch):
    monkeypatch.setitem(ENCODERS._entries, KIND.name, KIND)


def new_encoder(**sizes):
    encoder = ModernEncoder(ModernConfig(**SMALL | sizes))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in encoder.named_parameters():
        middle = 1.0 if "norm.weight" in name else 0.0
        parameter.data.copy_(torch.normal(middle, 0.2, parameter.shape, generator=generator))
    return encoder


def written(folder, encoder):
    tensors = to_hugging_face(dict(encoder.named_parameters()), KIND)
    prefixed = {name if name.startswith("head.") else KIND.prefix + name: value for name, value in tensors.items()}
    write_safetensors(folder / "model.safetensors", prefixed)
    encoder.config.write(folder / "config.json")
    return folder


def test_what_its_configuration_has_beside_a_berts_is_read_and_written(tmp_path):
    config = ModernConfig(**SMALL)
    config.write(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["local_attention"] == 8
    assert ModernConfig.read(tmp_path / "config.json") == config


@needs_transformers
def test_states_pooled_outputs_and_gradients_equal_those_of_transformers(tmp_path):
    random, lengths = np.random.default_rng(2), np.array([9, 1, 26, 4])
    inputs = {"lengths": lengths, "ids": random.integers(4, 50, 40)}
    inputs["upstream"] = random.standard_normal((4, 32)).astype(np.float32)
    np.savez(tmp_path / "in.npz", **inputs)
    written(tmp_path, new_encoder())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-P", "-c", REFERENCE], check=True, cwd=tmp_path, env=environment)
    encoder = read_encoder(tmp_path / "config.json")
    assert load_weights(encoder, tmp_path / "model.safetensors", seed=0) == []
    flat = FlatParameters(dict(encoder.named_parameters()), encoder.blocks(), tasks=1)
    batch = pack([TaskTokens(ids=inputs["ids"], segments=np.zeros_like(inputs["ids"]), lengths=lengths)])
    found = encoder(batch, all_tokens=True)
    (found.pooled * torch.from_numpy(inputs["upstream"])).sum().backward()
    expected = {name: torch.from_numpy(value) for name, value in np.load(tmp_path / "out.npz").items()}
    gradients = to_hugging_face({one.name: flat.view(flat.gradients, one)[0] for one in flat.entries}, KIND)
    assert_close(found.hidden, expected["hidden"], 1e-5)
    assert_close(found.pooled, expected["pooled"], 1e-5)
    assert len(gradients) == 22
    for name, gradient in gradients.items():
        theirs = f"gradient.{name}" if name.startswith("head.") else f"gradient.model.{name}"
        assert_close(gradient, expected[theirs], 1e-5)


def test_one_packed_backward_gives_each_task_the_gradient_of_its_own():
    encoder, upstream = new_encoder(), torch.randn(8, 32)
    tasks = [random_tokens(count, (9, count)) for count in (3, 1, 4)]
    tasks = [replace(tokens, segments=np.zeros_like(tokens.segments)) for tokens in tasks]
    flat = FlatParameters(dict(encoder.named_parameters()), encoder.blocks(), tasks=3)
    (encoder(pack(tasks)).pooled * upstream).sum().backward()
    for task, (tokens, own) in enumerate(zip(tasks, upstream.split([3, 1, 4]), strict=True)):
        alone = new_encoder()
        (alone(pack([tokens])).pooled * own).sum().backward()
        expected = dict(alone.named_parameters())
        for entry in flat.entries:
            assert_close(flat.view(flat.gradients, entry)[task], expected[entry.name].grad, 1e-5)


@pytest.mark.slow
def test_a_whole_run_trains_it_and_its_best_model_is_read_again(tmp_path):
    special = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    (tmp_path / "model").mkdir()
    tokenizer = byte_level_json(script_strings(200, 3))
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | {f"{k}_token": v for k, v in special.items()})
    )
    first = new_encoder(vocab_size=520, max_position_embeddings=96)
    written(tmp_path / "model", first)
    words = command(write_course_data(tmp_path / "data"), tmp_path / "run", "--max-length", "96", "--max-steps", "4")
    words[words.index("tiny")] = str(tmp_path / "model")
    assert (
        run_command(
            run.main, [*words, "--pair-encoding", "joint,sts=separate", "--kernels", "torch", "--pooling", "mean"]
        )
        == 0
    )
    again = load_model(str(tmp_path / "run"), seed=0)
    assert isinstance(again.encoder, ModernEncoder)
    assert again.encoder.config == first.config
    assert not torch.equal(again.encoder.embeddings.words, first.embeddings.words)
