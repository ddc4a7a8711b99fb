"""From a configuration to the model and the optimizer that it describes, new or as a run saved them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.heads import SharedLayer, build_heads
from concord.bert.models import Model, load_model
from concord.bert.multitask import SHARED_LAYER, MultitaskModel
from concord.bert.pals import ProjectedAttention
from concord.kernels.surgery.rules import MOST_TASKS
from concord.train.data.tasks import Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.objectives.class_weights import class_weights
from concord.train.objectives.objectives import Objective, build_objectives, head_specs
from concord.train.ranks.exchange import RankExchange
from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT, Reporter
from concord.train.settings.agreement import check_shrinkage
from concord.train.settings.parts import (
    BatchConfig,
    EncoderConfig,
    FineTuningConfig,
    OptimizerConfig,
    PretrainingConfig,
)
from concord.train.steps.loop import Trainer
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision
from concord.train.steps.weightings import host_weighting, surgery_settings

_RATE, _WIDTH = 2e-4, 384  # the rate that suits encoders of this width
_HIGHEST_RATE = 5e-4

Settings = TypeVar("Settings", FineTuningConfig, PretrainingConfig)


def load_pretrained(config: EncoderConfig) -> Model:
    """The encoder that a run starts from, on the CPU, and its tokenizer."""
    return load_model(
        config.name,
        seed=config.seed,
        lower_case=config.lower_case,
        hidden_dropout=config.hidden_dropout,
        attention_dropout=config.attention_dropout,
    )


def fit_model(config: Settings, model: BertConfig) -> Settings:
    """The settings with what depends on the model: its learning rate, unless given, and no longer sequences.

    Wider encoders take smaller rates: 2e-4 at a hidden size of 384, and in inverse proportion to the size's square.
    InputError where the weight decay is too large for that rate.
    """
    rate = config.optimizer.learning_rate
    if rate < 0:
        rate = min(_HIGHEST_RATE, _RATE * (_WIDTH / model.hidden_size) ** 2)
        check_shrinkage(rate, config.optimizer.weight_decay)
    longest = min(config.data.max_length, model.max_length)
    return replace(
        config,
        data=replace(config.data, max_length=longest),
        optimizer=replace(config.optimizer, learning_rate=rate),
    )


def build_model(
    config: FineTuningConfig, tasks: Sequence[Task], encoder: Encoder, precision: Precision, ranks: Ranks | None = None
) -> MultitaskModel:
    """Put new heads on the encoder and lay all parameters out flat, on the run's device, to be divided among the ranks
    where there are some.

    Raises InputError where there are more tasks than surgery takes, the encoder knows no second segment for pairs in
    one sequence, or heads or losses do not fit the tasks.
    """
    if len(tasks) > MOST_TASKS:
        raise InputError(f"--tasks: {len(tasks)} tasks, expected {MOST_TASKS} at most")
    if encoder.config.kind.has_segments and encoder.config.type_vocab_size < 2:
        for task in tasks:
            if task.pair and config.data.pair_encoding[task.name] == "joint":
                raise InputError(
                    f"task {task.name}: the model's type_vocab_size is 1, which leaves the second sentence without an "
                    "embedding; expected --pair-encoding separate"
                )
    specs = head_specs(config.objectives, config.data.pair_encoding, tasks, encoder.config.hidden_size)
    seed = config.model.seed
    heads = build_heads(specs, seed=seed)
    shared_layer = None
    if config.model.shared_layer:
        shared_layer = SharedLayer(encoder.config.hidden_size, config.model.shared_layer)
        shared_layer.initialise(torch.Generator().manual_seed(seed))
        shared_layer.to(precision.device)
    pals = None
    if config.model.pals:
        pals = ProjectedAttention(encoder.config, [task.name for task in tasks], config.model.pals)
        pals.initialise(torch.Generator().manual_seed(seed))
        pals.to(precision.device)
    return MultitaskModel(
        encoder.to(precision.device),
        {name: head.to(precision.device) for name, head in heads.items()},
        compute_dtype=precision.compute_dtype,
        gradient_dtype=gradient_dtype(config, precision),
        by_matrix=config.surgery.granularity == "matrix",
        mean_pooling=config.model.pooling == "mean",
        pals=pals,
        shared_layer=shared_layer,
        pieces=ranks.size if ranks else 1,
    )


def gradient_dtype(config: FineTuningConfig, precision: Precision) -> torch.dtype:
    """What task gradients are kept in: the compute dtype, or fp32 where several backwards of a step accumulate."""
    smooth = any(config.objectives.smart[task] for task in config.data.tasks)
    return torch.float32 if config.batches.accumulates or smooth else precision.compute_dtype


def build_optimizer(
    config: FineTuningConfig, model: MultitaskModel, precision: Precision, ranks: Ranks | None = None
) -> SurgeryOptimizer:
    """The optimizer of the model's parameters, with the surgery that the configuration asks for; of a rank's piece of
    them where the model is laid out for `ranks`."""
    settings = surgery_settings(config.surgery, config.optimizer, scaling=precision.scaling)
    groups = len(model.shared.block_names) if settings.by_block else 1
    layers, pooled = len(model.encoder.layers), config.model.pooling == "cls"
    return SurgeryOptimizer(
        model.shared,
        model.private,
        model.tasks,
        settings=settings,
        shared_rates=[_shared_rate(config.optimizer, block, layers, pooled) for block in model.shared.block_names],
        private_rates=[config.optimizer.head_rates[name] for name in model.private.block_names],
        weighting=host_weighting(config.surgery.rule, len(model.tasks), groups, mean=settings.mean),
        exchange=ranks and RankExchange(model.shared, ranks, model.encoder),
    )


def _shared_rate(config: OptimizerConfig, block: str, layers: int, pooled: bool) -> float:
    """The layer that heads share learns at the heads' rate, the pooler and the last layer at the encoder's, and each
    layer below at that of the one above it times `layer_decay` (Howard and Ruder, 2018), the embeddings last. A pooler
    that is not read, since sequences are averaged, stays as it is."""
    if block.startswith(SHARED_LAYER):
        return config.head_rates.default
    part, number = [*block.split("."), ""][:2]
    if part == "pooler":
        return config.learning_rate if pooled else 0.0
    layers_above = layers if part == "embeddings" else layers - 1 - int(number)
    return config.learning_rate * config.layer_decay**layers_above


def build_trainer(
    config: FineTuningConfig,
    model: MultitaskModel,
    optimizer: SurgeryOptimizer,
    splits: Mapping[str, TokenizedSplit],
    device: torch.device,
    *,
    graphs: bool = False,
    reporter: Reporter = SILENT,
    ranks: Ranks | None = None,
) -> Trainer:
    """The trainer of that model on these training sets; the rest as `Trainer` takes it.

    InputError where heads, losses or batches do not fit the tasks.
    """
    sizes = {name: len(split) for name, split in splits.items()}
    tasks = [split.task for split in splits.values()]
    weights = {name: class_weights(split.task, split.labels) for name, split in splits.items()}
    weights = {name: own.to(device) for name, own in weights.items() if own is not None}
    objectives = build_objectives(config.objectives, config.data.pair_encoding, tasks, sizes, weights)
    _check_division(config.batches, objectives)
    return Trainer(
        model,
        optimizer,
        objectives,
        splits,
        device,
        batches=config.batches,
        rates=config.optimizer,
        graphs=graphs,
        fall_back=config.compute.cuda_graphs == "auto",
        reporter=reporter,
        ranks=ranks,
    )


def _check_division(batches: BatchConfig, objectives: Mapping[str, Objective]) -> None:
    """InputError where batches are to be divided, and a loss would compare fewer examples than it is meant to."""
    flag = "--accumulate auto" if batches.fitted else f"--micro-batch {batches.micro_batch}"
    for task, objective in objectives.items():
        if objective.compares and (batches.fitted or batches.micro_batch):
            raise InputError(
                f"{flag}: a loss of the task {task} compares a batch's examples, and would have a part of them; "
                "expected --accumulate N, with a --batch-size that fits"
            )
