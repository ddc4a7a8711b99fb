"""BERT weights in Hugging Face's names and shapes, in and out, as safetensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.tensor_files import read_tensors, write_tensors

POOLER = "pooler."
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_EMBEDDINGS = {"words": "word_embeddings", "positions": "position_embeddings", "segments": "token_type_embeddings"}
_LAYER = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_PROJECTIONS = ("query", "key", "value")


def hugging_face_names(name: str) -> list[str]:
    """The names that Hugging Face's BertModel gives to the encoder parameter `name`.

    One name, or three whose values are stacked (query, key and value).
    """
    area, *rest = name.split(".")
    if area == "embeddings":
        if rest[0] == "norm":
            return [f"embeddings.LayerNorm.{rest[1]}"]
        return [f"embeddings.{_EMBEDDINGS[rest[0]]}.weight"]
    if area == "pooler":
        return [f"pooler.dense.{rest[0]}"]
    index, module, kind = rest
    if module == "qkv":
        return [f"encoder.layer.{index}.attention.self.{projection}.{kind}" for projection in _PROJECTIONS]
    return [f"encoder.layer.{index}.{_LAYER[module]}.{kind}"]


def to_hugging_face(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder parameters under Hugging Face's names, the fused query-key-value product taken apart."""
    tensors = {}
    for name, value in values.items():
        names = hugging_face_names(name)
        tensors.update(zip(names, (piece.contiguous() for piece in value.chunk(len(names))), strict=True))
    return tensors


@torch.no_grad()
def copy_from_hugging_face(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], source: str) -> None:
    """Copy Hugging Face's tensors into encoder parameters, converting their dtype.

    tensors: by Hugging Face's names, with or without the prefix "bert."; further ones (a language-model head) are
    ignored. values: the encoder's parameters by name. source: what messages call the tensors' origin.
    Raises InputError that names every tensor that is missing, misshapen, not finite or in a dtype of something else
    than weights (fp64, fp32, fp16, bf16), before anything is copied.
    """
    tensors = {modern_name(name): tensor for name, tensor in tensors.items()}
    missing, unfit = [], []
    for name, value in values.items():
        names = hugging_face_names(name)
        expected = (value.shape[0] // len(names), *value.shape[1:])
        for hugging_face_name in names:
            if hugging_face_name not in tensors:
                missing.append(hugging_face_name)
            elif problem := misfit(tensors[hugging_face_name], expected):
                unfit.append(f"{hugging_face_name} {problem}")
    problems = [f"missing {', '.join(missing)}"] if missing else []
    problems += unfit
    if problems:
        raise InputError(f"{source}: not the weights of this model: {'; '.join(problems)}")
    for name, value in values.items():
        value.copy_(torch.cat([tensors[name] for name in hugging_face_names(name)]))


def misfit(found: Tensor | None, expected: Sequence[int]) -> str:
    """Why a tensor of a file is not a weight of the expected shape, to stand behind its name; "" where it is one."""
    if found is None or tuple(found.shape) != tuple(expected):
        return f"is {'nothing' if found is None else list(found.shape)}, expected {list(expected)}"
    if found.dtype not in _DTYPES:
        return f"is in {str(found.dtype).removeprefix('torch.')}, expected float32, float16, bfloat16 or float64"
    return "" if all_finite(found) else "has values that are not finite"


def all_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinities: it is read once, and nothing of its size made."""
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())


def load_weights(encoder: Encoder, path: Path, seed: int) -> bool:
    """Fill an encoder from a Hugging Face safetensors file, and say whether the file has a pooler.

    A model that was saved as a language model has none: the encoder then gets random weights for it, from `seed`.
    Raises InputError where the file is unreadable or does not fit.
    """
    tensors, values = read_safetensors(path), dict(encoder.named_parameters())
    has_pooler = any(modern_name(name).startswith(POOLER) for name in tensors)
    if not has_pooler:
        encoder.initialise(seed)
        values = {name: value for name, value in values.items() if not name.startswith(POOLER)}
    copy_from_hugging_face(tensors, values, str(path))
    return has_pooler


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; InputError where it is missing, cut or another format, or cannot
    be mapped into memory, or carries a digest, as ours do, that is not its content's."""
    return read_tensors(path).tensors


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors as a safetensors file whose header tells Hugging Face's library that they are torch's; return the
    digest of its content. metadata: name -> text, what else its header is to hold."""
    return write_tensors(path, tensors, {"format": "pt", **(metadata or {})})


def modern_name(name: str) -> str:
    """A tensor's name without the model's prefix and with LayerNorm's parameters named as today."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
