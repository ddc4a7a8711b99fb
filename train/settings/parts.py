"""A run's settings in typed parts, of which each piece of the trainer takes the one that it goes by.

`train.settings.typed` makes them of the flat settings, which the flags, recipes and config.json hold. Pre-training uses
the smaller of two parts where fine-tuning adds settings to it.
"""

from dataclasses import dataclass
from typing import Literal

from concord.train.settings.definitions import TableSpec
from concord.train.settings.values import PerTask, Stage


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which texts are read.

    Attributes:
        source: what --data says, such as a folder.
        tasks: their names, in the run's order.
        max_length: wordpieces after which a sequence is cut, special tokens included.
        skip_bad_rows: whether rows that cannot be used are skipped instead of being an error.
        table: the one task's tables, where flags name them; None where `source` says all.
    """

    source: str
    tasks: tuple[str, ...]
    max_length: int
    skip_bad_rows: bool
    table: TableSpec | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig(TextConfig):
    """Which labelled sets are read, and how pairs are encoded.

    Attributes:
        pair_encoding: joint for one sequence a pair, separate for two.
        dev_examples: how many of each dev set, 0 for all.
        skip_test: whether test sets are left unread.
    """

    pair_encoding: PerTask[str]
    dev_examples: int
    skip_test: bool


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder that a run starts from.

    Attributes:
        name: a known model, a folder, or a name on the hub.
        lower_case: whether texts are read in lower case, None for what the model's files say.
        hidden_dropout, attention_dropout: rates in [0, 1) on hidden states, on probabilities; None for the model's own.
        seed: of weights that are drawn at random.
    """

    name: str
    lower_case: bool | None
    hidden_dropout: float | None
    attention_dropout: float | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig(EncoderConfig):
    """The encoder, and what lies between it and the heads.

    Attributes:
        pooling: cls for the pooled first token of a sequence, mean for the mean of all its tokens.
        shared_layer: the tasks whose heads read through one layer that they share.
        pals: columns of each task's projected attention layers, 0 for none.
    """

    pooling: Literal["cls", "mean"]
    shared_layer: tuple[str, ...]
    pals: int


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Each task's head, and what is minimised for it.

    Attributes:
        heads: names in the table of heads.
        head_dropout: rate in [0, 1) on their features.
        pair_features: what a head reads of two sequences.
        losses: names in the tables of losses, or auto, which are added up.
        loss_weights: a number of at least 0, or `INVERSE_SHARE` or `UNCERTAINTY`.
        margin: cosine, of the cosine-embedding loss.
        smart: weight of SMART's regulariser, 0 for none.
        chooses_thresholds: whether binary tasks have the thresholds that are best on dev.
        metrics: what each task is judged by, a name in the table of metrics, or `OF_TASK` for what the task says.
        class_weights: `task_choices.BALANCED`, or label -> weight, or `NONE`; or `OF_TASK` for what the task says.
    """

    heads: PerTask[str]
    head_dropout: float
    pair_features: str
    losses: PerTask[tuple[str, ...]]
    loss_weights: PerTask[float | str]
    margin: float
    smart: PerTask[float]
    chooses_thresholds: bool
    metrics: PerTask[str]
    class_weights: PerTask[str | dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class SurgeryConfig:
    """What repairs conflicts between the tasks' gradients.

    Attributes:
        rule: a name in the table of rules.
        granularity: what has surgery of its own: the model, each layer or each matrix.
        scope: whether dot products span the shared parameters or all.
        reduction: whether the projected gradients are summed or averaged.
        gradvac_beta: share in [0, 1) by which GradVac's targets follow the cosines in each step.
    """

    rule: str
    granularity: Literal["model", "layer", "matrix"]
    scope: Literal["shared", "all"]
    reduction: Literal["sum", "mean"]
    gradvac_beta: float


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """What computes, in which number format. Each setting is the flag of the same name."""

    amp: str
    kernels: str
    products: str
    self_check: str
    cuda_graphs: str
    device: str


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How much a step reads, and how many steps there are.

    Attributes:
        batch_size: examples of a task, or texts, in a batch.
        accumulate: batches a step, computed one after the other.
        epochs: passes over the data.
        max_steps: the run ends after so many steps; 0 for no limit.
        seed: of the examples' order, masks, dropout, and the random order in which surgery meets the tasks.
    """

    batch_size: int
    accumulate: int
    epochs: int
    max_steps: int
    seed: int

    def total_steps(self, steps_per_epoch: int) -> int:
        """The steps of the whole run."""
        total = self.epochs * steps_per_epoch
        return min(total, self.max_steps) if self.max_steps else total


@dataclass(frozen=True, kw_only=True)
class BatchConfig(StepConfig):
    """Which tasks' examples a step reads, and what it trains. A batching is given all of it.

    Attributes:
        batching: a name in the table of batchings.
        sampling_weights: how many times as many examples of a task a batch holds as the batching gives it.
        until: the set, largest or smallest, whose end ends an epoch.
        steps_per_epoch: 0 for as many as the sets' sizes make.
        stages: of the run, which add up to its epochs.
        micro_batch: most examples of a task in a part of a batch, for each process; 0 for whole batches.
        fitted: whether batches are divided into the fewest parts that fit into memory.
    """

    batching: str
    sampling_weights: PerTask[float]
    until: Literal["largest", "smallest"]
    steps_per_epoch: int
    stages: tuple[Stage, ...]
    micro_batch: int
    fitted: bool

    @property
    def accumulates(self) -> bool:
        """Whether several backwards of a step may add to its gradients."""
        return self.accumulate > 1 or self.micro_batch > 0 or self.fitted

    @property
    def trained(self) -> list[str]:
        """What each epoch trains: all, or the heads alone."""
        return [stage.trains for stage in self.stages for _ in range(stage.epochs)]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The factor of all learning rates over the run.

    Attributes:
        name: a name in the table of schedules.
        warmup: share of the steps, in [0, 1), in which rates rise linearly.
        milestones: epochs after which rates are multiplied by `decay`.
    """

    name: str
    warmup: float
    milestones: tuple[int, ...]
    decay: float


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW, clipping, and the schedule of the rates.

    Attributes:
        learning_rate: peak rate of the encoder, below 0 for one that suits the model's width.
        weight_decay: decoupled, of matrices alone.
        clip: global norm that the gradient is clipped to, 0 for no clipping.
        schedule: factor of the rates over the run.
    """

    learning_rate: float
    weight_decay: float
    clip: float
    schedule: ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(AdamWConfig):
    """The same with rates for heads and layers, and averaged weights.

    Attributes:
        head_rates: peak rate of each task's head.
        layer_decay: what the encoder's rate is multiplied by from each layer to the one below, in [0, 1].
        average: share of the run's steps, in [0, 1), that averaged weights span, 0 for none.
    """

    head_rates: PerTask[float]
    layer_decay: float
    average: float


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """When a run logs and saves.

    Attributes:
        log_every: steps between two logged ones.
        save_every: steps between two saved states.
    """

    log_every: int
    save_every: int


@dataclass(frozen=True, kw_only=True)
class OutputConfig(LogConfig):
    """When a run evaluates, what it keeps and lists, and whether it ends early.

    Attributes:
        evaluate_every: steps between two evaluations within an epoch, 0 for none.
        best_metric: the task and the metric that the best model is chosen by, None for the mean of the main ones.
        early_stopping: the run ends after so many evaluations in a row without a better model, 0 for never.
        mistakes: how many of the worst answers are listed for each task.
    """

    evaluate_every: int
    best_metric: tuple[str, str] | None
    early_stopping: int
    mistakes: int


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """All settings of a fine-tuning run."""

    data: DataConfig
    model: ModelConfig
    objectives: ObjectiveConfig
    surgery: SurgeryConfig
    compute: ComputeConfig
    batches: BatchConfig
    optimizer: OptimizerConfig
    outputs: OutputConfig


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """All settings of a pre-training run, but the rate of its head, which depends on where the head comes from."""

    data: TextConfig
    model: EncoderConfig
    compute: ComputeConfig
    batches: StepConfig
    optimizer: AdamWConfig
    outputs: LogConfig
