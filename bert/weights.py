"""An encoder's weights in Hugging Face's names and shapes, in and out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from concord.bert.checkpoints import read_checkpoint
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.kinds import BERT, Kind
from concord.bert.tensor_files import write_tensors

POOLER = "pooler."  # before the names of the encoder's parameters
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# What wrappers put before the names of the tensors that they save.
_FOREIGN = ("module.", "model.", "_orig_mod.", "encoder.")
_LISTED = 2  # names of tensors in a message


def to_hugging_face(values: Mapping[str, Tensor], kind: Kind = BERT) -> dict[str, Tensor]:
    """Encoder parameters under Hugging Face's names, the fused query-key-value product taken apart."""
    tensors = {}
    for name, value in values.items():
        names = kind.names(name)
        tensors.update(zip(names, (piece.contiguous() for piece in value.chunk(len(names))), strict=True))
    return tensors


def to_classifier(
    values: Mapping[str, Tensor], layer: Mapping[str, Tensor], kind: Kind, *, keep_pooler: bool
) -> dict[str, Tensor]:
    """Encoder parameters and the last layer of a head under the names of the kind's classifier of sequences.

    layer: "weight" [labels, hidden] and "bias" [labels]. keep_pooler: whether the pooler stands where the encoder alone
    has it, too, where the classifier calls it something else.
    """
    tensors = {kind.prefix + name: value for name, value in to_hugging_face(values, kind).items()}
    pooler = {name: values[f"{POOLER}{name}"].contiguous() for name in ("weight", "bias")}
    if not (keep_pooler and kind.pooler_is_the_encoders):
        for name in pooler:
            del tensors[kind.prefix + kind.names(f"{POOLER}{name}")[0]]
    tensors |= {f"{kind.classifier.pooler}.{name}": value for name, value in pooler.items()}
    return tensors | {f"{kind.classifier.layer}.{name}": value for name, value in layer.items()}


@torch.no_grad()
def copy_from_hugging_face(
    tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], source: str, kind: Kind = BERT
) -> str:
    """Copy Hugging Face's tensors into encoder parameters, converting their dtype; return the foreign prefix that was
    taken off the tensors' names, "" for none.

    tensors: by Hugging Face's names; further ones (a language-model head) are ignored. values: the encoder's parameters
    by name. source: what messages call the tensors' origin. kind: of the encoder.
    Raises InputError that names tensors that are missing and those that are there instead, misshapen, not finite or in
    a dtype of something else than weights (fp64, fp32, fp16, bf16), before anything is copied.
    """
    tensors, prefix = own_names(tensors, kind, source)
    missing, unfit, expected = [], [], set()
    for name, value in values.items():
        names = kind.names(name)
        shape = (value.shape[0] // len(names), *value.shape[1:])
        expected.update(names)
        for hugging_face_name in names:
            if hugging_face_name not in tensors:
                missing.append(hugging_face_name)
            elif problem := misfit(tensors[hugging_face_name], shape):
                unfit.append(f"{hugging_face_name} {problem}")
    problems = []
    if missing:
        others = [name for name in tensors if name not in expected]
        there = f"; there instead: {_listed(others)}" if others else ""
        problems.append(f"missing {_listed(missing)} of {len(expected)}{there}")
    problems += unfit
    if problems:
        raise InputError(f"{source}: not the weights of this model: {'; '.join(problems)}")
    for name, value in values.items():
        value.copy_(torch.cat([tensors[name] for name in kind.names(name)]))
    return prefix


def own_names(tensors: Mapping[str, Tensor], kind: Kind, source: str) -> tuple[dict[str, Tensor], str]:
    """A file's tensors under the names of the encoder alone, with LayerNorm's parameters named as today; and what
    wrappers had put before them all, "" for nothing.

    The word table, which every encoder has, shows what stands before. InputError where there are two such encoders in
    the file, or two tensors get one name.
    """
    table = kind.tensors["embeddings.words"][0]
    before = {name: _wrappers(name.removesuffix(table), kind) for name in tensors if name.endswith(table)}
    known = {name: wrappers for name, wrappers in before.items() if wrappers is not None}
    if len(known) > 1:
        raise InputError(f"{source}: {len(known)} encoders in it, with {_listed(known)}; expected one")
    (prefix,) = known.values() or ("",)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix or "").removeprefix(kind.prefix)
        own = own.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if own in found:
            raise InputError(f"{source}: two tensors for {own}, {name} being one; expected one")
        found[own] = tensor
    return found, prefix or ""


def _wrappers(before: str, kind: Kind) -> str | None:
    """What wrappers have put before a name that has all of `before` before it; None where that is not theirs."""
    wrappers = before.removesuffix(kind.prefix)
    rest = wrappers
    while rest:
        part = next((part for part in _FOREIGN if rest.startswith(part)), None)
        if part is None:
            return None
        rest = rest.removeprefix(part)
    return wrappers


def _listed(names: Iterable[str]) -> str:
    """The first names, and how many there are more."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def misfit(found: Tensor | None, expected: Sequence[int]) -> str:
    """Why a tensor of a file is not a weight of the expected shape, to stand behind its name; "" where it is one."""
    if found is None or tuple(found.shape) != tuple(expected):
        return f"is {'nothing' if found is None else list(found.shape)}, expected {list(expected)}"
    if found.dtype not in _DTYPES:
        return f"is in {str(found.dtype).removeprefix('torch.')}, expected float32, float16, bfloat16 or float64"
    return "" if all_finite(found, torch.float32) else "has values that are not finite in float32"


def all_finite(tensor: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinities: it is read once, and nothing of its size made.

    dtype: that it is to be converted to, where its values may be too large for that; None for its own.
    """
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).to(dtype or tensor.dtype).isfinite().all())


def load_weights(encoder: Encoder, path: Path, seed: int, pooler: Mapping[str, Tensor] | None = None) -> list[str]:
    """Fill an encoder from the weights of a model directory, and return remarks on them, a phrase each.

    path: as `checkpoints.find_weights` gives it; pooler: by the encoder's names, in place of the one there. Weights may
    lack a pooler, as those of a language model do: the encoder then gets random ones for it, from `seed`. Raises
    InputError where a file is unreadable or does not fit.
    """
    (tensors, remarks), values = read_checkpoint(path), dict(encoder.named_parameters())
    kind = encoder.config.kind
    tensors, prefix = own_names(tensors, kind, str(path))
    tensors |= {kind.names(name)[0]: value for name, value in (pooler or {}).items()}
    of_pooler = {name for one in values if one.startswith(POOLER) for name in kind.names(one)}
    has_pooler = not of_pooler.isdisjoint(tensors)
    if not has_pooler:
        encoder.initialise(seed)
        values = {name: value for name, value in values.items() if not name.startswith(POOLER)}
    copy_from_hugging_face(tensors, values, str(path), kind)
    if prefix:
        remarks.append(f"the prefix {prefix} is taken off the names of its tensors")
    if not has_pooler:
        remarks.append("its pooler is new, the weights have none")
    return remarks


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors as a safetensors file whose header tells Hugging Face's library that they are torch's; return the
    digest of its content. metadata: name -> text, what else its header is to hold."""
    return write_tensors(path, tensors, {"format": "pt", **(metadata or {})})
