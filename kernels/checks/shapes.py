"""What a run launches, in numbers, and the ops that it takes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FEW_WORDS, _FEW_TOKENS, _FEW_SEQUENCES = 100, 200, 16  # of the cases of native kernels


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The sizes, dtypes and options that decide which kernels a run launches, and on what.

    hidden: columns of the encoder.
    inner: columns of its feed-forward layers.
    attention: (heads, size of a head) of each kind of attention in it.
    words: rows of the word table.
    positions: rows of the position table.
    segments: rows of the segment table.
    longest: tokens of the longest sequence.
    tokens: of a batch.
    sequences: of a batch.
    tasks: how many have a gradient of their own.
    blocks: of shared parameters.
    heads: blocks of private parameters.
    compute: the name of the dtype of matrices and activations.
    gradients: the name of the dtype of the task gradients.
    hidden_dropout: the rate while training, as in `BertConfig`.
    attention_dropout: the rate while training, as in `BertConfig`.
    surgery: the fields of `SurgerySettings`.
    accumulates: whether micro-batches add up.
    ordinary: whether some backward passes give parameters ordinary gradients instead of one a task.
    first_tokens: whether the last layer computes the first tokens alone.
    trains: whether there are backward passes and optimizer steps, and not predictions alone.
    vocabulary: whether there is a loss over all words.
    embedding: columns of the embeddings' tables, where these are not the encoder's; 0 for the same.
    """

    hidden: int
    inner: int
    attention: tuple[tuple[int, int], ...]
    words: int
    positions: int
    segments: int
    tokens: int
    longest: int
    sequences: int
    tasks: int
    blocks: int
    heads: int
    compute: str
    gradients: str
    hidden_dropout: float
    attention_dropout: float
    surgery: Mapping[str, Any]
    accumulates: bool = False
    ordinary: bool = False
    first_tokens: bool = True
    trains: bool = True
    vocabulary: bool = False
    embedding: int = 0

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Shapes":
        """The shapes that `as_json` gave, after a way through JSON; TypeError where a field is missing or unknown."""
        return cls(**{**content, "attention": tuple((heads, size) for heads, size in content["attention"])})

    def on(self, device: torch.device) -> "Shapes":
        """The same on a GPU; on a CPU smaller ones of the same kinds, since kernels are interpreted there."""
        if device.type == "cuda":
            return self
        heads, size = self.attention[0]
        return replace(
            self,
            hidden=64,
            embedding=32 if self.embedding not in (0, self.hidden) else 0,
            inner=96,
            attention=((min(heads, 2), size),),
            words=min(self.words, 60),
            positions=min(self.positions, 40),
            tokens=min(self.tokens, 60),
            longest=min(self.longest, 70),
            sequences=min(self.sequences, 6),
        )

    def for_native(self) -> "Shapes":
        """The same with fewer rows: native kernels treat all alike, and a check at a run's beginning is soon over."""
        return replace(
            self,
            words=min(self.words, _FEW_WORDS),
            tokens=min(self.tokens, _FEW_TOKENS),
            sequences=min(self.sequences, _FEW_SEQUENCES),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of matrices and activations."""
        return DTYPES[self.compute]

    @property
    def gradient_dtype(self) -> torch.dtype:
        """Of the task gradients."""
        return DTYPES[self.gradients]


def ops_of(shapes: Shapes) -> list[str]:
    """The ops that a run of these shapes launches, in the order in which a step does."""
    ops = ["embedding", "attention"]
    if shapes.first_tokens:
        ops.append("first_token_attention")
    ops += ["add_layer_norm", "bias_gelu"]
    if shapes.trains:
        ops += ["task_products", "task_sums", "gather", "gram_matrix", "plan_update", "combine_adamw"]
    if shapes.vocabulary:
        ops.append("linear_cross_entropy")
    if shapes.trains and shapes.heads:
        ops.append("dropout")
    return ops
