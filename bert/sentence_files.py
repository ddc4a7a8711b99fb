"""What sentence-transformers reads beside the weights: how sequences become embeddings, and where they are cut."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from concord.bert.config import BertConfig
from concord.bert.errors import InputError, shown
from concord.bert.files import is_file, make_folder, read_json, read_json_object, replacing
from concord.bert.kinds import BERT, ENCODERS
from concord.bert.names import (
    CONFIG_FILE,
    DENSE_CONFIG_FILE,
    DENSE_WEIGHTS_FILE,
    MODULES_FILE,
    POOLING_CONFIG_FILE,
    SENTENCE_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
)
from concord.bert.tensor_files import TensorFile, read_tensors
from concord.bert.weights import POOLER, misfit, write_safetensors

_TYPES = "sentence_transformers.models."  # by which every release knows its modules
_ACTIVATIONS = {
    "": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
_MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}  # as releases before 6 have them
_EMBEDDING = "sentence_embedding"  # what a dense layer reads and writes, unless its file says another name
_LONGEST = 1 << 20  # of tokens; where a tokenizer knows no limit, its file has 1e30


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

    InputError where one is damaged, or a dense layer's weights are not of the size that its config.json says.
    """
    if not is_file(directory / MODULES_FILE):
        return SentenceSettings("mean", 0)
    pooling = ""
    if _modules(directory) == ["Transformer", "Pooling"] and _modes(directory) == ["mean"]:
        pooling = "mean"
    elif read_pooler(directory) is not None:
        pooling = "cls"
    return SentenceSettings(pooling, _longest(directory))


def read_pooler(directory: Path, hidden_size: int = 0) -> TensorFile | None:
    """The dense layer through which a model's first token is pooled in sentence-transformers, if it is what the
    model's kind has for a pooler: by the encoder's names of that, pooler.weight [hidden, hidden] and pooler.bias
    [hidden]. None where there is no such layer, or no weights of it.

    hidden_size: of the encoder; 0 for what the layer's config.json says. InputError where a file is damaged, or the
    weights are misshapen or not finite.
    """
    if _modules(directory) != ["Transformer", "Pooling", "Dense"] or _modes(directory) != ["cls"]:
        return None
    dense = read_json_object(directory / DENSE_CONFIG_FILE, "a dense layer")
    size, path = dense.get("in_features"), directory / DENSE_WEIGHTS_FILE
    if type(size) is not int or not _is_pooler(dense, _dense(size, _pooling(directory))) or not is_file(path):
        return None
    size = hidden_size or size
    file = read_tensors(path, of="a dense layer")
    tensors = {name: file.tensors.get(f"linear.{name}") for name in ("weight", "bias")}
    for name, shape in (("weight", (size, size)), ("bias", (size,))):
        if problem := misfit(tensors[name], shape):
            raise InputError(f"{path}: linear.{name} {problem}")
    return TensorFile({POOLER + name: tensor for name, tensor in tensors.items() if tensor is not None}, file.metadata)


def _modules(directory: Path) -> list[str]:
    """The kinds of a model's modules in order, but for one that makes the length 1 at the end; none without a file."""
    path = directory / MODULES_FILE
    if not is_file(path):
        return []
    modules = read_json(path, "a list of modules")
    if not (isinstance(modules, list) and all(isinstance(one, dict) for one in modules)):
        raise InputError(f"{path}: expected a list of modules")
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules]
    return kinds[:-1] if kinds[-1:] == ["Normalize"] else kinds


def _modes(directory: Path) -> list[Any]:
    """What a model's pooling is made of, in the words of sentence-transformers 6; where releases before it have
    written a flag of another name than those of `_MODES`, that name."""
    pooling = read_json_object(directory / POOLING_CONFIG_FILE, "a pooling")
    named = pooling.get("pooling_mode")
    if named is not None:
        return named if isinstance(named, list) else [named]
    modes = {flag: mode for mode, flag in _MODES.items()}
    flags = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    return [modes.get(flag, flag) for flag in flags]


def _is_pooler(dense: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether the config.json of a dense layer describes the one that is expected, of the embedding and nothing else.

    Further keys, which each release has others of, change nothing.
    """
    return (
        all(dense.get(name) == value for name, value in expected.items())
        and dense.get("module_input_name") in (None, _EMBEDDING)
        and dense.get("module_output_name") in (None, _EMBEDDING)
        and dense.get("use_residual") in (None, False)
    )


def _longest(directory: Path) -> int:
    """Where texts are cut: as sentence-transformers has it or, from its release 6 on, the tokenizer, which may say more
    than the model has positions for. 0 where neither says it. InputError for what is no number of tokens."""
    path = directory / SENTENCE_CONFIG_FILE
    longest = read_json_object(path, "how texts are read").get("max_seq_length") if is_file(path) else None
    if longest:
        if type(longest) is not int or longest < 0:
            raise InputError(f"{path}: max_seq_length is {shown(longest)}, expected a whole number")
        return longest
    path = directory / TOKENIZER_CONFIG_FILE
    longest = read_json_object(path, "an object").get("model_max_length") if is_file(path) else None
    if longest is None or (type(longest) in (int, float) and longest > _LONGEST):
        return 0
    if type(longest) is not int or longest < 1:
        raise InputError(f"{path}: model_max_length is {shown(longest)}, expected a positive whole number")
    return min(longest, BertConfig.read(directory / CONFIG_FILE).max_length)


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
