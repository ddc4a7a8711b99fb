"""The shape of a BERT encoder, as Hugging Face's config.json names it."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from concord.bert.errors import InputError, shown
from concord.bert.files import read_json_object
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
}


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and rates of a BERT encoder (Devlin et al., 2019), under Hugging Face's names.

    The defaults are bert-base-uncased's.
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # Booleans are integers to Python.
            found = f"model configuration: {field.name} is {shown(value)}"
            if field.type is int and (type(value) is not int or value < 1):
                raise InputError(f"{found}, expected a positive integer")
            if field.type is int and value > _LARGEST[field.name]:
                raise InputError(f"{found}, expected {_LARGEST[field.name]} at most")
            if field.type is float and (type(value) not in (int, float) or not 0 <= value < 1):
                raise InputError(f"{found}, expected a number from 0 to below 1")
            if field.name.endswith("dropout_prob") and value > HIGHEST_RATE:
                raise InputError(f"{found}, expected {HIGHEST_RATE:.6f} at most")
        if self.hidden_size % 8:
            raise InputError(
                f"model configuration: hidden_size {self.hidden_size} is not a multiple of 8, which the kernels take"
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
    def parameters(self) -> int:
        """How many numbers the encoder has, without its pooler, which weights may lack."""
        hidden, inner = self.hidden_size, self.intermediate_size
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
        return rows * hidden + 2 * hidden + self.num_hidden_layers * layer

    @classmethod
    def read(cls, path: Path) -> "BertConfig":
        """The configuration in a Hugging Face config.json.

        Raises InputError where the file is missing, not JSON, or describes another architecture than BERT's, or sizes
        and rates that no BERT has.
        """
        content = read_json_object(path, "the object of a model's config.json")
        expected = {
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "is_decoder": False,
        }
        for key, value in expected.items():
            if content.get(key, value) != value:
                raise InputError(f"{path}: {key} is {shown(content[key])}, expected {value!r}")
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in known})
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write a config.json that `read`, and Hugging Face, understand."""
        content = {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            **asdict(self),
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


SIZES = {
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert-base": BertConfig(),
    "bert-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
"""The shapes of models that are known by name."""
