"""What a run will launch, for the self-check: sizes, dtypes and options, from its settings and its data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.pals import heads_of
from concord.kernels.checks.shapes import DTYPES, Shapes
from concord.train.data.batching import weighted
from concord.train.data.device_batches import round_length, round_tokens
from concord.train.data.tokenized import TokenizedSplit
from concord.train.settings.parts import FineTuningConfig, PretrainingConfig
from concord.train.steps.build import gradient_dtype
from concord.train.steps.precision import Precision
from concord.train.steps.weightings import pretraining_settings, surgery_settings

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_TOKENS_TO_PREDICT = 16384  # of a batch, where its data are not known yet


def shapes_of_run(
    config: FineTuningConfig,
    encoder: Encoder,
    training: Mapping[str, TokenizedSplit],
    others: Iterable[TokenizedSplit],
    precision: Precision,
) -> Shapes:
    """Those of a training run: `training` are its sets by task, `others` those that it evaluates on."""
    by_matrix = config.surgery.granularity == "matrix"
    blocks = len(set(encoder.blocks(by_matrix=by_matrix).values()))
    if config.model.shared_layer:
        blocks += 2 if by_matrix else 1
    smooth = any(config.objectives.smart[task] for task in training)
    means = {task: len(split.ids) / len(split) for task, split in training.items()}
    attention = [(encoder.config.num_attention_heads, encoder.config.head_size)]
    if config.model.pals:
        heads = heads_of(config.model.pals)
        attention.append((heads, config.model.pals // heads))
    batches = config.batches
    whole = weighted(dict.fromkeys(training, batches.batch_size), batches)
    examples = dict.fromkeys(training, batches.micro_batch) if batches.micro_batch else whole
    return Shapes(
        **_of_model(encoder.config, attention, _longest([*training.values(), *others]), precision),
        tokens=round_tokens(round(sum(examples[task] * mean for task, mean in means.items()))),
        sequences=sum(examples[task] * split.sequences_per_example for task, split in training.items()),
        tasks=len(training),
        blocks=blocks,
        heads=len(training),
        gradients=_NAMES[gradient_dtype(config, precision)],
        surgery=asdict(surgery_settings(config.surgery, config.optimizer, scaling=precision.scaling)),
        accumulates=config.batches.accumulates or smooth,
        ordinary=smooth,
        first_tokens=config.model.pooling == "cls",
    )


def shapes_of_pretraining(
    config: PretrainingConfig, encoder: Encoder, texts: Sequence[np.ndarray], precision: Precision
) -> Shapes:
    """Those of a masked language model's training on tokenised texts."""
    lengths = np.array([len(text) for text in texts])
    attention = [(encoder.config.num_attention_heads, encoder.config.head_size)]
    accumulates = config.batches.accumulate > 1
    return Shapes(
        **_of_model(encoder.config, attention, int(lengths.max()), precision),
        tokens=round_tokens(round(config.batches.batch_size * lengths.mean())),
        sequences=config.batches.batch_size,
        tasks=1,
        blocks=len(set(encoder.blocks().values())),
        heads=1,
        gradients=_NAMES[torch.float32 if accumulates else precision.compute_dtype],
        surgery=asdict(pretraining_settings(config.optimizer, scaling=precision.scaling)),
        accumulates=accumulates,
        first_tokens=False,
        vocabulary=True,
    )


def shapes_of_prediction(config: FineTuningConfig, model: BertConfig, precision: Precision) -> Shapes:
    """Those of evaluations and predictions, which launch forward passes alone, on sequences of any length."""
    attention = [(model.num_attention_heads, model.head_size)]
    return Shapes(
        **_of_model(model, attention, min(config.data.max_length, model.max_length), precision),
        tokens=_TOKENS_TO_PREDICT,
        sequences=_TOKENS_TO_PREDICT // 32,
        tasks=len(config.data.tasks),
        blocks=1,
        heads=1,
        gradients="fp32",
        surgery={},
        first_tokens=config.model.pooling == "cls",
        trains=False,
    )


def _of_model(
    model: BertConfig, attention: Sequence[tuple[int, int]], longest: int, precision: Precision
) -> dict[str, object]:
    return {
        "hidden": model.hidden_size,
        "inner": model.intermediate_size,
        "attention": tuple(attention),
        "words": model.vocab_size,
        "positions": model.max_position_embeddings,
        "segments": model.type_vocab_size,
        "embedding": model.embedding_width,
        "longest": min(round_length(longest), model.max_length),
        "compute": _NAMES[precision.compute_dtype],
        "hidden_dropout": model.hidden_dropout_prob,
        "attention_dropout": model.attention_probs_dropout_prob,
    }


def _longest(splits: Iterable[TokenizedSplit]) -> int:
    """The tokens of the longest sequence."""
    return max(int(np.diff(split.cu_seqlens).max(initial=1)) for split in splits)
