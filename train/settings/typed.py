"""The one place where the flat settings, one for each flag, become the typed parts that a run goes by."""

from concord.train.settings.config import RunConfig
from concord.train.settings.definitions import TableSpec
from concord.train.settings.options import AUTO
from concord.train.settings.parts import (
    AdamWConfig,
    BatchConfig,
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    FineTuningConfig,
    LogConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    OutputConfig,
    PretrainingConfig,
    ScheduleConfig,
    StepConfig,
    SurgeryConfig,
    TextConfig,
)
from concord.train.settings.values import parse_best_metric


def fine_tuning_config(flat: RunConfig) -> FineTuningConfig:
    """The parts of a fine-tuning run's settings."""
    return FineTuningConfig(
        data=DataConfig(
            **vars(_texts(flat)),
            pair_encoding=flat.per_task("pair_encoding"),
            dev_examples=flat.dev_examples,
            skip_test=flat.skip_test,
        ),
        model=ModelConfig(**vars(_encoder(flat)), pooling=flat.pooling, shared_layer=flat.shared_layer, pals=flat.pals),
        objectives=ObjectiveConfig(
            heads=flat.per_task("heads"),
            head_dropout=flat.head_dropout,
            pair_features=flat.pair_features,
            losses=flat.per_task("losses").map(lambda names: tuple(names.split("+"))),
            loss_weights=flat.loss_weights_per_task(),
            margin=flat.margin,
            smart=flat.numbers_per_task("smart"),
            chooses_thresholds=flat.threshold == "dev",
            metrics=flat.per_task("metric"),
            class_weights=flat.class_weights_per_task(),
        ),
        surgery=SurgeryConfig(
            rule=flat.surgery,
            granularity=flat.granularity,
            scope=flat.surgery_scope,
            reduction=flat.reduction,
            gradvac_beta=flat.gradvac_beta,
        ),
        compute=_compute(flat),
        batches=BatchConfig(
            **vars(_steps(flat)),
            batching=flat.batching,
            sampling_weights=flat.numbers_per_task("sampling_weights"),
            until=flat.until,
            steps_per_epoch=flat.steps_per_epoch,
            stages=flat.parsed_stages(),
            micro_batch=flat.micro_batch,
            fitted=flat.accumulate == AUTO,
        ),
        optimizer=OptimizerConfig(
            **vars(_adamw(flat)),
            head_rates=flat.numbers_per_task("head_learning_rate"),
            layer_decay=flat.layer_decay,
            average=flat.average,
        ),
        outputs=OutputConfig(
            **vars(_logs(flat)),
            evaluate_every=flat.evaluate_every,
            best_metric=parse_best_metric(flat.best_metric, flat.tasks),
            early_stopping=flat.early_stopping,
            mistakes=flat.mistakes,
        ),
    )


def pretraining_config(flat: RunConfig) -> PretrainingConfig:
    """The parts of a pre-training's settings."""
    return PretrainingConfig(
        data=_texts(flat),
        model=_encoder(flat),
        compute=_compute(flat),
        batches=_steps(flat),
        optimizer=_adamw(flat),
        outputs=_logs(flat),
    )


def _texts(flat: RunConfig) -> TextConfig:
    table = None
    if flat.train_file:
        table = TableSpec(
            name=flat.tasks[0],
            train=flat.train_file,
            validation=flat.validation_file,
            test=flat.test_file,
            text_columns=flat.text_column,
            label_column=flat.label_column,
            named_by="--train-file",
        )
    return TextConfig(
        source=flat.train_file or flat.data,
        tasks=flat.tasks,
        max_length=flat.max_length,
        skip_bad_rows=flat.skip_bad_rows,
        table=table,
    )


def _encoder(flat: RunConfig) -> EncoderConfig:
    return EncoderConfig(
        name=flat.model,
        lower_case=None if flat.lower_case == "auto" else flat.lower_case == "yes",
        hidden_dropout=flat.hidden_dropout if flat.hidden_dropout >= 0 else None,
        attention_dropout=flat.attention_dropout if flat.attention_dropout >= 0 else None,
        seed=flat.seed,
    )


def _compute(flat: RunConfig) -> ComputeConfig:
    return ComputeConfig(
        amp=flat.amp,
        kernels=flat.kernels,
        products=flat.products,
        self_check=flat.self_check,
        cuda_graphs=flat.cuda_graphs,
        device=flat.device,
    )


def _steps(flat: RunConfig) -> StepConfig:
    return StepConfig(
        batch_size=flat.batch_size,
        accumulate=1 if flat.accumulate == AUTO else flat.accumulate,
        epochs=flat.epochs,
        max_steps=flat.max_steps,
        seed=flat.seed,
    )


def _adamw(flat: RunConfig) -> AdamWConfig:
    schedule = ScheduleConfig(
        name=flat.schedule,
        warmup=flat.warmup,
        milestones=flat.milestone_epochs(),
        decay=flat.decay,
    )
    return AdamWConfig(
        learning_rate=flat.learning_rate, weight_decay=flat.weight_decay, clip=flat.clip, schedule=schedule
    )


def _logs(flat: RunConfig) -> LogConfig:
    return LogConfig(log_every=flat.log_every, save_every=flat.save_every)
