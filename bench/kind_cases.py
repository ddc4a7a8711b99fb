"""Small models of every kind with random weights, and transformers' answers, which Concord's are held against."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from concord.bert.batch import TaskTokens, pack
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.models import read_encoder
from concord.bert.weights import load_weights, to_hugging_face, write_safetensors
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.tolerances import relative_error

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 30,
}
_ROBERTA: dict[str, Any] = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "first_position": 2}
# Case -> what its configuration has beside the sizes.
CASES: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert"},
    "bert, gelu_new": {"model_type": "bert", "hidden_act": "gelu_new"},
    "bert, relu, one segment": {"model_type": "bert", "hidden_act": "relu", "type_vocab_size": 1},
    "roberta": {"model_type": "roberta", **_ROBERTA},
    "xlm-roberta": {"model_type": "xlm-roberta", **_ROBERTA, "first_position": 4},
    "camembert": {"model_type": "camembert", **_ROBERTA},
    "distilbert": {"model_type": "distilbert"},
    "distilbert, relu": {"model_type": "distilbert", "hidden_act": "relu"},
    "electra": {"model_type": "electra", "embedding_size": 16},
    "electra, no projection": {"model_type": "electra"},
}
_ZERO = 1e-5  # of the greatest gradient: less is rounding


def new_models(number: int) -> tuple[Encoder, MaskedLanguageModel]:
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


def new_inputs() -> dict[str, np.ndarray]:
    """Four sequences of random tokens, the gradient of their pooled outputs, and what is masked in the first one."""
    random, lengths = np.random.default_rng(0), np.array([9, 1, 26, 4])
    tokens = int(lengths.sum())
    return {
        "lengths": lengths,
        "ids": random.integers(4, 50, tokens),  # none is padding, whose positions transformers counts otherwise
        "segments": random.integers(0, 2, tokens),
        "upstream": random.standard_normal((len(lengths), 32)).astype(np.float32),
        "positions": np.array([1, 4, 5, 8]),
        "targets": random.integers(0, 50, 4),
    }


def ask_transformers(folder: Path) -> None:
    """Write every case into `folder` and have transformers answer there: N/out.npz, N-again/, N-masked-again/."""
    np.savez(folder / "in.npz", **new_inputs())
    for number in range(len(CASES)):
        encoder, model = new_models(number)
        for name in (f"{number}", f"{number}-masked"):
            (folder / name).mkdir()
            encoder.config.write(folder / name / "config.json")
        tensors = to_hugging_face(dict(encoder.named_parameters()), encoder.config.kind)
        write_safetensors(folder / f"{number}" / "model.safetensors", tensors)
        model.save(folder / f"{number}-masked" / "model.safetensors")
    (folder / "kinds.json").write_text(json.dumps([case["model_type"] for case in CASES.values()]))
    # Neither its folder nor the repository may be where the child looks for modules.
    command = [sys.executable, "-P", str(Path(__file__).with_name("kind_reference.py").resolve())]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=folder, env=environment)


def answers(folder: Path, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What transformers answered to a case: its outputs, and its gradients, by name."""
    found = {name: torch.from_numpy(value) for name, value in np.load(folder / f"{number}" / "out.npz").items()}
    gradients = {name.removeprefix("gradient."): value for name, value in found.items() if name.startswith("gradient.")}
    return {name: value for name, value in found.items() if "." not in name}, gradients


def read_case(folder: Path) -> Encoder:
    """The encoder in a folder, with its weights."""
    encoder = read_encoder(folder / "config.json")
    load_weights(encoder, folder / "model.safetensors", seed=0)
    return encoder


def tokens_of(encoder: Encoder, inputs: dict[str, np.ndarray]) -> TaskTokens:
    """The sequences as an encoder reads them."""
    segments = inputs["segments"]
    if not encoder.config.kind.has_segments or encoder.config.type_vocab_size == 1:
        segments = np.zeros_like(segments)
    return TaskTokens(ids=inputs["ids"], segments=segments, lengths=inputs["lengths"])


def encoder_errors(folder: Path, number: int) -> dict[str, float]:
    """How far a case's states, pooled outputs, and each parameter's gradient, by its name in files, are from
    transformers', relative to these; with the kernels that are in use.

    A gradient that is zero but for rounding, as that of a key's bias, which softmax does not see, is held against the
    greatest of all.
    """
    (outputs, gradients), inputs = answers(folder, number), new_inputs()
    encoder = read_case(folder / f"{number}")
    flat = FlatParameters(dict(encoder.named_parameters()), encoder.blocks(), tasks=1)
    batch = pack([tokens_of(encoder, inputs)])
    whole = encoder(batch, all_tokens=True)
    errors = {name: relative_error(getattr(whole, name), outputs[name]) for name in ("hidden", "pooled")}
    (encoder(batch).pooled * torch.from_numpy(inputs["upstream"])).sum().backward()
    values = {entry.name: flat.view(flat.gradients, entry)[0] for entry in flat.entries}
    found = to_hugging_face(values, encoder.config.kind)
    if found.keys() != gradients.keys():
        raise RuntimeError(f"gradients of {min(found.keys() ^ gradients.keys())} on one side alone")
    scale = max(value.norm().item() for value in gradients.values())
    for name, gradient in gradients.items():
        if gradient.norm().item() < _ZERO * scale:
            errors[name] = found[name].norm().item() / scale
        else:
            errors[name] = relative_error(found[name], gradient)
    return errors


def language_model_errors(folder: Path, number: int) -> dict[str, float]:
    """How far a case's loss as a masked language model, and the gradient of its word table, are from transformers'."""
    (outputs, _), inputs = answers(folder, number), new_inputs()
    encoder, path = read_case(folder / f"{number}-masked"), folder / f"{number}-masked" / "model.safetensors"
    head = LanguageModelHead(encoder.config)
    if not head.load(load_file(path), str(path)):
        raise RuntimeError(f"{path}: no head of a masked language model")
    model = MaskedLanguageModel(encoder, head)
    positions, targets = (torch.from_numpy(inputs[name]) for name in ("positions", "targets"))
    loss = model(pack([tokens_of(encoder, inputs)]), positions, targets)
    loss.backward()
    (words,) = (entry for entry in model.shared.entries if entry.name == "embeddings.words")
    gradient = model.shared.view(model.shared.gradients, words)[0]
    return {"loss": relative_error(loss, outputs["loss"]), "words": relative_error(gradient, outputs["words"])}
