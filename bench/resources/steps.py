"""Training steps on meta tensors, which have shapes and no memory: what they launch is what a training run launches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bench.resources.targets import Target
from concord.bert.batch import TaskTokens, pack
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.kernels.dropout import DropoutStream
from concord.kernels.gather import Corpus, gather_tokens
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.layout.rows import TaskRows
from concord.kernels.linear_cross_entropy import linear_cross_entropy
from concord.kernels.surgery.multi_tensor import combine_tensors, gram_of_tensors
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.steps.optimizer import SurgeryOptimizer


@dataclass(frozen=True)
class Model:
    """The sizes of an encoder."""

    layers: int
    hidden: int
    heads: int
    inner: int


MODELS = {
    "MiniLM": Model(6, 384, 12, 1536),
    "BERT-base": Model(12, 768, 12, 3072),
    "BERT-large": Model(24, 1024, 16, 4096),
    "heads-of-128": Model(12, 768, 6, 3072),
}
_VOCABULARY = 30522
_TASKS = (3, 8, 16)
# With every number of tasks, clipping and a loss scale; and what else a run may ask for, with three tasks alone, since
# it changes little of a kernel: coefficients from elsewhere, norms that span the heads, no clipping, no loss scale.
_SURGERIES = (("none", False), ("pcgrad", False), ("gradvac", False), ("pcgrad", True), ("gradvac", True))
_OTHER_SURGERIES = (
    SurgerySettings(method="given", max_norm=1.0, scaling=True),
    SurgerySettings(method="given", by_block=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="given", private_norms=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="pcgrad", private_norms=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="gradvac", private_norms=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="pcgrad", max_norm=0.0, scaling=True),
    SurgerySettings(method="pcgrad", max_norm=1.0, scaling=False),
)
_LENGTHS = {"short": (30, 12, 25, 40, 9, 33), "tiny": (5, 3, 16, 8, 9, 7), "long": (512, 100, 300, 60, 17, 128)}


def dtype_text(dtype: torch.dtype) -> str:
    """A dtype as the report names it: bf16."""
    return str(dtype).removeprefix("torch.").replace("float", "fp").replace("bfp", "bf")


@dataclass(frozen=True)
class EncoderStep:
    """Gathering, forward and backward of `model`, at sequence `lengths`, in `dtype`, with or without dropout."""

    model: str
    lengths: str
    dtype: torch.dtype
    dropout: bool

    def __str__(self) -> str:
        return f"{self.model} {self.lengths} {dtype_text(self.dtype)}" + ("" if self.dropout else " no dropout")

    def launch(self) -> None:
        """Launch the kernels of a batch's gathering, of forward and backward of three tasks, and of a language-model
        loss, on meta tensors."""
        # Two layers launch what more do: an inner one, and the last one's [CLS] form.
        config = encoder_config(self.model, layers=2, dropout=0.1 if self.dropout else 0.0)
        with torch.device("meta"):
            encoder = Encoder(config)
            named = dict(encoder.named_parameters())
            FlatParameters(named, encoder.blocks(), tasks=3, compute_dtype=self.dtype, gradient_dtype=self.dtype)
            seed = torch.zeros((), dtype=torch.int64)
            masked = torch.empty(400, config.hidden_size, dtype=self.dtype, requires_grad=True)
            bias = torch.empty(_VOCABULARY, requires_grad=True)
            targets = torch.empty(400, dtype=torch.int32)
            offsets = torch.empty(2, dtype=torch.int32)
            word_rows = TaskRows(offsets=offsets, bounds=(0, 400))
            corpus = Corpus(
                ids=torch.empty(9000, dtype=torch.int32),
                segments=torch.empty(9000, dtype=torch.uint8),
                cu_seqlens=torch.empty(301, dtype=torch.int64),
            )
            gather_tokens(corpus, torch.empty(96, dtype=torch.int64), torch.empty(4, dtype=torch.int32), 2816)
        tasks = [
            TaskTokens(ids=np.zeros(own.sum(), int), segments=np.zeros(own.sum(), int), lengths=own)
            for own in np.split(np.array(_LENGTHS[self.lengths]), 3)
        ]
        encoder(pack(tasks, "meta"), DropoutStream(seed) if self.dropout else None).pooled.sum().backward()
        words = encoder.embeddings.words.detach().requires_grad_()
        linear_cross_entropy(masked, words, bias, targets, word_rows).backward()


@dataclass(frozen=True)
class OptimizerStep:
    """Optimizer steps of `tasks` tasks that share `blocks` blocks, with task gradients of `dtype`, one a surgery."""

    tasks: int
    blocks: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.blocks} blocks {dtype_text(self.dtype)}"

    def launch(self) -> None:
        """Launch the kernels of an optimizer step with each surgery, and of those on gradients that lie apart."""
        blocks, names = [
            [f"{kind} {index}" for index in range(count)]
            for kind, count in (("block", self.blocks), ("task", self.tasks))
        ]
        with torch.device("meta"):
            shared = {name: nn.Parameter(torch.empty(2000)) for name in blocks}
            private = {name: nn.Parameter(torch.empty(300)) for name in names}
            flat = FlatParameters(
                shared,
                dict(zip(blocks, blocks, strict=True)),
                tasks=self.tasks,
                compute_dtype=self.dtype,
                gradient_dtype=self.dtype,
            )
            heads = FlatParameters(private, dict(zip(names, names, strict=True)), tasks=1, deposit=False)
            seed, factor = torch.zeros((), dtype=torch.int64), torch.zeros(())
        surgeries = [
            SurgerySettings(method=method, by_block=by_block, max_norm=1.0, scaling=True)
            for method, by_block in _SURGERIES
        ]
        for settings in (*surgeries, *(_OTHER_SURGERIES if self.tasks == _TASKS[0] else ())):
            optimizer = SurgeryOptimizer(
                flat,
                heads,
                names,
                settings=settings,
                shared_rates=1e-4,
                private_rates=1e-3,
                weighting=(lambda grams: grams[:, 0]) if settings.method == "given" else None,
            )
            optimizer.step(seed=seed, rate_factor=factor)
        apart = [
            [torch.empty(size, dtype=self.dtype, device="meta") for _ in range(self.tasks)] for size in (2000, 300)
        ]
        gram_of_tensors(apart)
        combine_tensors(apart, torch.empty(2, self.tasks, device="meta"))


def encoder_config(name: str, *, layers: int | None = None, dropout: float = 0.0) -> BertConfig:
    """The configuration of the model called `name`, with all its layers or with `layers`."""
    model = MODELS[name]
    return BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers if layers is None else layers,
        num_attention_heads=model.heads,
        intermediate_size=model.inner,
        max_position_embeddings=512,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def block_counts(models: Sequence[str]) -> list[int]:
    """How many blocks the encoders of `models` have in surgery by layers, each number once."""
    with torch.device("meta"):
        return sorted({len(set(Encoder(encoder_config(name)).blocks().values())) for name in models})


def steps(target: Target, models: Sequence[str]) -> Iterator[EncoderStep | OptimizerStep]:
    """The steps that between them launch every variant of every kernel.

    Without dropout only where a head size or a tile is new; models that differ in nothing but that share the rest.
    """
    for dtype in (target.half, torch.float32):
        for model in models:
            for lengths in ("short", "long"):
                yield EncoderStep(model, lengths, dtype, dropout=True)
        for model in sorted({"MiniLM", "BERT-base"}.intersection(models)):
            yield EncoderStep(model, "tiny", dtype, dropout=True)
            for lengths in ("short", "long"):
                yield EncoderStep(model, lengths, dtype, dropout=False)
    for blocks in block_counts(models):
        yield OptimizerStep(_TASKS[0], blocks, torch.float32)
        for tasks in _TASKS:
            yield OptimizerStep(tasks, blocks, target.half)
