"""Every kind of encoder against transformers' model of that kind, at small random sizes: both ways, all gradients."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from concord.bert.batch import TaskTokens, pack
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.kinds import ENCODERS
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.models import read_encoder
from concord.bert.weights import load_weights, to_hugging_face, write_safetensors
from concord.kernels.dispatch import using_kernels
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.native.build import native_library
from tests.assertions import assert_close

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 30,
}
ROBERTA = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "first_position": 2}
# Case -> what its configuration has beside the sizes.
CASES = {
    "bert": {"model_type": "bert"},
    "bert, gelu_new": {"model_type": "bert", "hidden_act": "gelu_new"},
    "bert, relu, one segment": {"model_type": "bert", "hidden_act": "relu", "type_vocab_size": 1},
    "roberta": {"model_type": "roberta", **ROBERTA},
    "xlm-roberta": {"model_type": "xlm-roberta", **ROBERTA, "first_position": 4},
    "camembert": {"model_type": "camembert", **ROBERTA},
    "distilbert": {"model_type": "distilbert"},
    "distilbert, relu": {"model_type": "distilbert", "hidden_act": "relu"},
    "electra": {"model_type": "electra", "embedding_size": 16},
    "electra, no projection": {"model_type": "electra"},
}
# Whose embeddings differ in what a kernel is given; the rest of an encoder is one for all.
WITH_KERNELS = ["roberta", "distilbert", "electra"]
# Runs outside the repository, whose room kernels/ transformers would take for a package of its own.
REFERENCE = """
import json
import numpy as np, torch, transformers
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
transformers.logging.set_verbosity_error()
data, told = np.load("in.npz"), []
for number, kind in enumerate(json.load(open("kinds.json"))):
    folder = str(number)
    classifies = kind in ("distilbert", "electra")
    automatic = AutoModelForSequenceClassification if classifies else AutoModel
    model, loading = automatic.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    masked, of_masked = AutoModelForMaskedLM.from_pretrained(folder + "-masked", output_loading_info=True)
    encoder, config = getattr(model, kind, model), model.config
    told.append([config.model_type, type(encoder).__name__, [*loading["missing_keys"], *of_masked["missing_keys"]]])
    model.eval().save_pretrained(folder + "-again")
    masked.eval().save_pretrained(folder + "-masked-again")
    lengths, longest = data["lengths"], int(data["lengths"].max())
    ids, mask, types = torch.full((3, len(lengths), longest), 0, dtype=torch.long)
    ids.fill_(config.pad_token_id)
    start = 0
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.from_numpy(data["ids"][start : start + length])
        types[row, :length] = torch.from_numpy(data["segments"][start : start + length])
        mask[row, :length] = 1
        start += length
    more = {"token_type_ids": types} if getattr(config, "type_vocab_size", 1) == 2 else {}
    output = encoder(ids, attention_mask=mask, **more)
    first = output.last_hidden_state[:, 0]
    if kind == "distilbert":
        pooled = torch.relu(model.pre_classifier(first))
    elif kind == "electra":
        pooled = torch.nn.functional.gelu(model.classifier.dense(first))
    else:
        pooled = output.pooler_output
    hidden = torch.cat([output.last_hidden_state[row, :length] for row, length in enumerate(lengths)])
    (pooled * torch.from_numpy(data["upstream"])).sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients["gradient." + name.removeprefix(model.base_model_prefix + ".")] = parameter.grad.numpy()
    scores = masked(ids, attention_mask=mask, **more).logits[0, torch.from_numpy(data["positions"])]
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(data["targets"]))
    loss.backward()
    words = masked.get_input_embeddings().weight.grad
    np.savez(folder + "/out.npz", hidden=hidden.detach(), pooled=pooled.detach(), loss=loss.detach(), words=words,
             **gradients)
json.dump(told, open("told.json", "w"))
"""


def new_models(number):
    """An encoder, and the masked language model of another one, of a case, with weights that none could be taken for
    another."""
    config = BertConfig(**SIZES, **CASES[list(CASES)[number]])
    encoder, model = Encoder(config), MaskedLanguageModel(Encoder(config), LanguageModelHead(config))
    generator = torch.Generator().manual_seed(number)
    for one in (encoder, model):
        for name, parameter in one.named_parameters():
            middle = 1.0 if "norm.weight" in name else 0.0
            parameter.data.copy_(torch.normal(middle, 0.1, parameter.shape, generator=generator))
    return encoder, model


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(folder with what Concord wrote, what transformers made of it and wrote again, by the number of the case; the
    inputs)."""
    folder, random = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    lengths = np.array([9, 1, 26, 4])
    tokens = int(lengths.sum())
    inputs = {
        "lengths": lengths,
        "ids": random.integers(4, 50, tokens),  # none is padding, whose positions transformers counts otherwise
        "segments": random.integers(0, 2, tokens),
        "upstream": random.standard_normal((len(lengths), 32)).astype(np.float32),
        "positions": np.array([1, 4, 5, 8]),
        "targets": random.integers(0, 50, 4),
    }
    np.savez(folder / "in.npz", **inputs)
    for number in range(len(CASES)):
        encoder, model = new_models(number)
        for name in (f"{number}", f"{number}-masked"):
            (folder / name).mkdir()
            encoder.config.write(folder / name / "config.json")
        tensors = to_hugging_face(dict(encoder.named_parameters()), encoder.config.kind)
        write_safetensors(folder / f"{number}" / "model.safetensors", tensors)
        model.save(folder / f"{number}-masked" / "model.safetensors")
    (folder / "kinds.json").write_text(json.dumps([case["model_type"] for case in CASES.values()]))
    (folder / "reference.py").write_text(REFERENCE)
    subprocess.run([sys.executable, "reference.py"], check=True, cwd=folder)
    return folder, inputs


def load(folder):
    encoder = read_encoder(folder / "config.json")
    load_weights(encoder, folder / "model.safetensors", seed=0)
    return encoder


def tokens_of(encoder, inputs):
    segments = inputs["segments"]
    if not encoder.config.kind.has_segments or encoder.config.type_vocab_size == 1:
        segments = np.zeros_like(segments)
    return TaskTokens(ids=inputs["ids"], segments=segments, lengths=inputs["lengths"])


@needs_transformers
@pytest.mark.parametrize(
    ("kernels", "case"),
    [("torch", case) for case in CASES]
    + [(kernels, case) for kernels in ("triton", "native") for case in WITH_KERNELS],
)
def test_states_pooled_outputs_and_gradients_equal_those_of_transformers(reference, case, kernels):
    folder, inputs = reference[0] / str(list(CASES).index(case)), reference[1]
    expected = {name: torch.from_numpy(value) for name, value in np.load(folder / "out.npz").items()}
    encoder = load(folder)
    flat = FlatParameters(dict(encoder.named_parameters()), encoder.blocks(), tasks=1)
    batch = pack([tokens_of(encoder, inputs)])
    if kernels == "native" and native_library().missing:
        pytest.skip(native_library().missing)
    with using_kernels(kernels):
        whole = encoder(batch, all_tokens=True)
        assert_close(whole.hidden, expected["hidden"], 1e-5)
        assert_close(whole.pooled, expected["pooled"], 1e-5)
        (encoder(batch).pooled * torch.from_numpy(inputs["upstream"])).sum().backward()
    values = {entry.name: flat.view(flat.gradients, entry)[0] for entry in flat.entries}
    found = to_hugging_face(values, encoder.config.kind)
    gradients = {name.removeprefix("gradient."): value for name, value in expected.items() if "gradient." in name}
    assert found.keys() == gradients.keys()
    scale = max(value.norm().item() for value in gradients.values())
    for name, gradient in gradients.items():
        if gradient.norm() < 1e-5 * scale:  # a key's bias: softmax does not see what all keys share
            assert found[name].norm() < 1e-5 * scale, name
        else:
            assert_close(found[name], gradient, 1e-5)


@needs_transformers
@pytest.mark.parametrize("case", CASES)
def test_the_masked_language_model_is_that_of_transformers(reference, case):
    folder, inputs = reference[0] / f"{list(CASES).index(case)}-masked", reference[1]
    expected = np.load(reference[0] / str(list(CASES).index(case)) / "out.npz")
    encoder = load(folder)
    head = LanguageModelHead(encoder.config)
    assert head.load(load_file(folder / "model.safetensors"), "here")
    model = MaskedLanguageModel(encoder, head)
    positions, targets = (torch.from_numpy(inputs[name]) for name in ("positions", "targets"))
    loss = model(pack([tokens_of(encoder, inputs)]), positions, targets)
    loss.backward()
    assert_close(loss, torch.from_numpy(expected["loss"]), 1e-5)
    (words,) = (entry for entry in model.shared.entries if entry.name == "embeddings.words")
    assert_close(model.shared.view(model.shared.gradients, words)[0], torch.from_numpy(expected["words"]), 1e-5)


@needs_transformers
def test_transformers_loads_what_is_written_as_the_same_kind_and_what_it_writes_is_read_again(reference):
    folder, _ = reference
    told = json.loads((folder / "told.json").read_text())
    for number, (case, (kind, architecture, missing)) in enumerate(zip(CASES.values(), told, strict=True)):
        assert (kind, architecture) == (case["model_type"], ENCODERS.entry(kind).architecture)
        of_the_classifier = ("classifier.weight", "classifier.bias", "out_proj.weight", "out_proj.bias")
        assert [name for name in missing if not name.endswith(of_the_classifier)] == []
        encoder, model = new_models(number)
        again = load(folder / f"{number}-again")
        assert again.config == encoder.config
        for name, value in encoder.named_parameters():
            assert torch.equal(again.get_parameter(name), value), name
        tensors = load_file(folder / f"{number}-masked-again" / "model.safetensors")
        head = LanguageModelHead(encoder.config)
        assert head.load(tensors, "here")
        for name, value in model.head.named_parameters():
            assert torch.equal(head.get_parameter(name), value), name
