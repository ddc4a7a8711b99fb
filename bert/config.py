"""The shape of an encoder of BERT's kind, as Hugging Face's config.json names it."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, shown
from concord.bert.files import read_json_object
from concord.bert.kinds import ENCODERS, Kind, refusal
from concord.kernels.ops import HIGHEST_RATE

# Sizes beyond any BERT's, which would fill the memory, or take hours, before anything else could show them to be wrong.
_LARGEST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 20,
    "type_vocab_size": 1 << 16,
    "embedding_size": 1 << 16,
    "first_position": 1 << 20,
}
ACTIVATIONS = ("gelu", "gelu_new", "relu")


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and rates of an encoder of BERT's kind (Devlin et al., 2019), under Hugging Face's names of BERT's.

    The defaults are bert-base-uncased's. model_type: a name in `kinds.ENCODERS`; hidden_act: one of `ACTIVATIONS`;
    embedding_size: columns of the tables where a projection to hidden_size follows them, None where there is none;
    first_position: the row of the position table that the first token of a sequence reads.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    model_type: str = "bert"
    hidden_act: str = "gelu"
    embedding_size: int | None = None
    first_position: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            found = f"model configuration: {field.name} is {shown(value)}"
            if field.name in _LARGEST and (field.type is int or value is not None):
                least = 0 if field.name == "first_position" else 1
                # Booleans are integers to Python.
                if type(value) is not int or value < least:
                    raise InputError(f"{found}, expected {'an integer from 0' if not least else 'a positive integer'}")
                if value > _LARGEST[field.name]:
                    raise InputError(f"{found}, expected {_LARGEST[field.name]} at most")
            if field.type is float and (type(value) not in (int, float) or not 0 <= value < 1):
                raise InputError(f"{found}, expected a number from 0 to below 1")
            if field.name.endswith("dropout_prob") and value > HIGHEST_RATE:
                raise InputError(f"{found}, expected {HIGHEST_RATE:.6f} at most")
        if self.model_type not in ENCODERS.names:
            raise InputError(f"model configuration: {refusal(self.model_type)}")
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"model configuration: hidden_act is {shown(self.hidden_act)}, expected one of {', '.join(ACTIVATIONS)}"
            )
        for name, size in (("hidden_size", self.hidden_size), ("embedding_size", self.embedding_width)):
            if size % 8:
                raise InputError(f"model configuration: {name} {size} is not a multiple of 8, which the kernels take")
        if self.first_position >= self.max_position_embeddings:
            raise InputError(
                f"model configuration: max_position_embeddings {self.max_position_embeddings} leaves no position, "
                f"since these start at {self.first_position}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model configuration: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kind(self) -> Kind:
        """The entry of its model_type."""
        return ENCODERS.entry(self.model_type)

    @property
    def embedding_width(self) -> int:
        """The columns of the embeddings' tables."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def max_length(self) -> int:
        """How many tokens a sequence may have: those that there is a position for."""
        return self.max_position_embeddings - self.first_position

    @classmethod
    def read(cls, path: Path) -> "BertConfig":
        """The configuration in a Hugging Face config.json.

        Raises InputError where the file is missing, not JSON, or describes an architecture that is not in
        `kinds.ENCODERS`, or sizes and rates that no such encoder has.
        """
        content = read_json_object(path, "the object of a model's config.json")
        name = content.get("model_type", "bert")
        if name not in ENCODERS.names:
            raise InputError(f"{path}: {refusal(name)}")
        kind = ENCODERS.entry(name)
        for key, value in kind.fixed.items():
            if content.get(key, value) != value:
                raise InputError(f"{path}: {key} is {shown(content[key])}, expected {value!r}")
        found: dict[str, Any] = {**kind.defaults, "model_type": name}
        for field in cls._file_fields(kind):
            key = kind.keys.get(field, field)
            if key in content:
                found[field] = content[key]
        if kind.padded_positions:
            padding = content.get("pad_token_id", _PADDING)
            if type(padding) is not int or not 0 <= padding < _LARGEST["first_position"]:
                raise InputError(f"{path}: pad_token_id is {shown(padding)}, expected an integer from 0")
            found["first_position"] = padding + 1
        if found.get("embedding_size") == found.get("hidden_size", cls.hidden_size):
            found["embedding_size"] = None
        try:
            return cls(**found)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def as_json(self) -> dict[str, Any]:
        """The object of a config.json that `read`, and Hugging Face, understand."""
        kind = self.kind
        content: dict[str, Any] = {"architectures": [kind.architecture], "model_type": kind.name}
        content[kind.keys.get("hidden_act", "hidden_act")] = self.hidden_act
        # What is false is so by default.
        content |= {key: value for key, value in kind.fixed.items() if value is not False}
        for field in self._file_fields(kind):
            content[kind.keys.get(field, field)] = getattr(self, field)
        if "embedding_size" in content:
            content["embedding_size"] = self.embedding_width
        if kind.padded_positions:
            content["pad_token_id"] = self.first_position - 1
        return content

    def write(self, path: Path) -> None:
        """Write a config.json that `read`, and Hugging Face, understand."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _file_fields(cls, kind: Kind) -> list[str]:
        """The fields that the config.json of a kind has, those of a class derived from this one among them."""
        without = {"model_type", "first_position", *kind.absent}
        if "embeddings.projection" not in kind.tensors:
            without.add("embedding_size")
        return [field.name for field in fields(cls) if field.name not in without]


_PADDING = 1  # the number of the padding token of RoBERTa's kinds, where config.json does not say it


SIZES = {
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert-base": BertConfig(),
    "bert-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
"""The shapes of models that are known by name."""
