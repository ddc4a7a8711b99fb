"""What sentence-transformers reads beside the weights: how sequences become embeddings, and where they are cut."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from concord.bert.errors import InputError, shown
from concord.bert.files import make_folder, read_json, read_json_object, replacing
from concord.bert.kinds import BERT, ENCODERS
from concord.bert.names import (
    CONFIG_FILE,
    DENSE_CONFIG_FILE,
    DENSE_WEIGHTS_FILE,
    MODULES_FILE,
    POOLING_CONFIG_FILE,
    SENTENCE_CONFIG_FILE,
)
from concord.bert.weights import write_safetensors

_TYPES = "sentence_transformers.models."  # by which every release knows its modules
_ACTIVATIONS = {
    "": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
_MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


@dataclass(frozen=True)
class SentenceSettings:
    """How a model's directory says that sequences become embeddings.

    Attributes:
        pooling: mean, or cls for the first token through the pooler; "" for what Concord has no pooling for.
        max_length: wordpieces at which a text is cut, special tokens included; 0 where nothing is said of it.
    """

    pooling: str
    max_length: int


def read_sentence_settings(directory: Path) -> SentenceSettings:
    """What the files of sentence-transformers in a model's directory say; the mean and 0 where there are none.

    InputError where one is damaged.
    """
    if not (directory / MODULES_FILE).is_file():
        return SentenceSettings("mean", 0)
    modules = read_json(directory / MODULES_FILE, "a list of modules")
    if not (isinstance(modules, list) and all(isinstance(one, dict) for one in modules)):
        raise InputError(f"{directory / MODULES_FILE}: expected a list of modules")
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules]
    kinds = kinds[:-1] if kinds[-1:] == ["Normalize"] else kinds
    pooling = read_json_object(directory / POOLING_CONFIG_FILE, "a pooling") if "Pooling" in kinds else {}
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    modes += [f"pooling_mode_{pooling['pooling_mode']}_tokens"] if "pooling_mode" in pooling else []
    found = ""
    if kinds == ["Transformer", "Pooling"] and modes == [_MODES["mean"]]:
        found = "mean"
    elif kinds == ["Transformer", "Pooling", "Dense"] and modes == [_MODES["cls"]]:
        dense = read_json_object(directory / DENSE_CONFIG_FILE, "a dense layer")
        found = "cls" if dense == _dense(dense.get("in_features", 0), _pooling(directory)) else ""
    longest: Any = 0
    if (directory / SENTENCE_CONFIG_FILE).is_file():
        path = directory / SENTENCE_CONFIG_FILE
        longest = read_json_object(path, "how texts are read").get("max_seq_length") or 0
        if type(longest) is not int or longest < 0:
            raise InputError(f"{path}: max_seq_length is {shown(longest)}, expected a whole number")
    return SentenceSettings(found, longest)


def write_sentence_settings(directory: Path, settings: SentenceSettings, hidden_size: int, activation: str) -> None:
    """Write a model's `settings`, of which pooling is cls or mean, so that sentence-transformers pools as they say.

    With cls, which sentence-transformers takes for the first token's state alone, a dense layer follows that is the
    model's pooler, with its `activation`; `write_pooler` writes its weights.
    """
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Dense": "Dense"} if settings.pooling == "cls" else {})
    write_pooling(directory, settings, hidden_size)
    if settings.pooling == "cls":
        _write(directory / DENSE_CONFIG_FILE, _dense(hidden_size, activation))
    write_modules(directory, kinds)


def write_pooling(directory: Path, settings: SentenceSettings, hidden_size: int) -> None:
    """Write where texts are cut, and which of a sequence's states make one vector."""
    chosen = {name: mode == settings.pooling for mode, name in _MODES.items()}
    _write(directory / SENTENCE_CONFIG_FILE, {"max_seq_length": settings.max_length, "do_lower_case": False})
    _write(directory / POOLING_CONFIG_FILE, {"word_embedding_dimension": hidden_size, **chosen})


def write_modules(directory: Path, kinds: Mapping[str, str]) -> None:
    """Write which modules follow each other: the folder of each -> what sentence-transformers calls its kind."""
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": _TYPES + kind}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    _write(directory / MODULES_FILE, modules)


def write_dense(folder: Path, weight: Tensor, bias: Tensor, activation: str, output: str = "") -> None:
    """Write a dense module into its folder: weight fp32 [outputs, inputs], bias fp32 [outputs].

    activation: of `kinds.Kind.pooling`, sigmoid, or "" for none; output: under which name what comes out is handed on,
    "" for the embedding's.
    """
    outputs, inputs = weight.shape
    content = _dense(inputs, activation) | {"out_features": outputs}
    _write(folder / "config.json", content | ({"module_output_name": output} if output else {}))
    write_safetensors(folder / "model.safetensors", {"linear.weight": weight, "linear.bias": bias})


def write_pooler(directory: Path, encoder: Mapping[str, Tensor]) -> None:
    """Write the weights of the dense layer that a model with the pooling cls has in sentence-transformers.

    encoder: its weights by their names within the encoder, fp32.
    """
    make_folder((directory / DENSE_WEIGHTS_FILE).parent)
    pooler = {f"linear.{name}": encoder[f"pooler.{name}"] for name in ("weight", "bias")}
    write_safetensors(directory / DENSE_WEIGHTS_FILE, pooler)


def _pooling(directory: Path) -> str:
    """What a model's pooler ends with, by its kind; that of BERT where the kind is none that is known."""
    name = read_json_object(directory / CONFIG_FILE, "the object of a model's config.json").get("model_type")
    return (ENCODERS.entry(name) if name in ENCODERS.names else BERT).pooling


def _dense(size: int, activation: str) -> dict[str, Any]:
    return {
        "in_features": size,
        "out_features": size,
        "bias": True,
        "activation_function": _ACTIVATIONS[activation],
    }


def _write(path: Path, content: Any) -> None:
    make_folder(path.parent)
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
