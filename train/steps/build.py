"""From a configuration to the model and the optimizer that it describes, new or as a run saved them."""

from collections.abc import Sequence
from dataclasses import replace

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
from concord.train.objectives.objectives import head_specs
from concord.train.settings.config import RunConfig
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision
from concord.train.steps.weightings import host_weighting, surgery_settings

_RATE, _WIDTH = 2e-4, 384  # the rate that suits encoders of this width
_HIGHEST_RATE = 5e-4


def load_pretrained(config: RunConfig) -> Model:
    """The encoder that a run starts from, on the CPU, and its tokenizer."""
    return load_model(
        config.model,
        seed=config.seed,
        hidden_dropout=config.hidden_dropout if config.hidden_dropout >= 0 else None,
        attention_dropout=config.attention_dropout if config.attention_dropout >= 0 else None,
    )


def fit_model(config: RunConfig, model: BertConfig) -> RunConfig:
    """The configuration with what depends on the model: its learning rate, unless given, and no longer sequences.

    Wider encoders take smaller rates: 2e-4 at a hidden size of 384, and in inverse proportion to the size's square.
    """
    rate = config.learning_rate
    if rate < 0:
        rate = min(_HIGHEST_RATE, _RATE * (_WIDTH / model.hidden_size) ** 2)
    return replace(config, learning_rate=rate, max_length=min(config.max_length, model.max_position_embeddings))


def build_model(config: RunConfig, tasks: Sequence[Task], encoder: Encoder, precision: Precision) -> MultitaskModel:
    """Put new heads on the encoder and lay all parameters out flat, on the run's device.

    Raises InputError where there are more tasks than surgery takes, the encoder knows no second segment for pairs in
    one sequence, or heads or losses do not fit the tasks.
    """
    if len(tasks) > MOST_TASKS:
        raise InputError(f"--tasks: {len(tasks)} tasks, expected {MOST_TASKS} at most")
    if encoder.config.type_vocab_size < 2:
        for task in tasks:
            if task.pair and config.for_task("pair_encoding", task.name) == "joint":
                raise InputError(
                    f"task {task.name}: the model's type_vocab_size is 1, which leaves the second sentence without an "
                    "embedding; expected --pair-encoding separate"
                )
    heads = build_heads(head_specs(config, tasks, encoder.config.hidden_size), seed=config.seed)
    shared_layer = None
    if config.shared_layer:
        shared_layer = SharedLayer(encoder.config.hidden_size, config.shared_layer)
        shared_layer.initialise(torch.Generator().manual_seed(config.seed))
        shared_layer.to(precision.device)
    pals = None
    if config.pals:
        pals = ProjectedAttention(encoder.config, [task.name for task in tasks], config.pals)
        pals.initialise(torch.Generator().manual_seed(config.seed))
        pals.to(precision.device)
    return MultitaskModel(
        encoder.to(precision.device),
        {name: head.to(precision.device) for name, head in heads.items()},
        compute_dtype=precision.compute_dtype,
        gradient_dtype=gradient_dtype(config, precision),
        by_matrix=config.granularity == "matrix",
        mean_pooling=config.pooling == "mean",
        pals=pals,
        shared_layer=shared_layer,
    )


def gradient_dtype(config: RunConfig, precision: Precision) -> torch.dtype:
    """What task gradients are kept in: the compute dtype, or fp32 where several backwards of a step accumulate."""
    several_backwards = config.accumulate > 1 or any(config.number_for_task("smart", task) for task in config.tasks)
    return torch.float32 if several_backwards else precision.compute_dtype


def build_optimizer(config: RunConfig, model: MultitaskModel, precision: Precision) -> SurgeryOptimizer:
    """The optimizer of the model's parameters, with the surgery that the configuration asks for."""
    settings = surgery_settings(config, scaling=precision.scaling)
    groups = len(model.shared.block_names) if settings.by_block else 1
    return SurgeryOptimizer(
        model.shared,
        model.private,
        model.tasks,
        settings=settings,
        shared_rates=[_shared_rate(config, block, len(model.encoder.layers)) for block in model.shared.block_names],
        private_rates=[config.number_for_task("head_learning_rate", name) for name in model.private.block_names],
        weighting=host_weighting(config.surgery, len(model.tasks), groups, mean=settings.mean),
    )


def _shared_rate(config: RunConfig, block: str, layers: int) -> float:
    """The layer that heads share learns at the heads' rate, the pooler and the last layer at the encoder's, and each
    layer below at that of the one above it times `layer_decay` (Howard and Ruder, 2018), the embeddings last. A pooler
    that is not read, since sequences are averaged, stays as it is."""
    if block.startswith(SHARED_LAYER):
        return config.number_for_task("head_learning_rate", "")
    part, number = [*block.split("."), ""][:2]
    if part == "pooler":
        return 0.0 if config.pooling == "mean" else config.learning_rate
    layers_above = layers if part == "embeddings" else layers - 1 - int(number)
    return config.learning_rate * config.layer_decay**layers_above
