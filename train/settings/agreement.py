"""What settings of a run must have in common: each is good by itself, and they are judged together.

`flat` is a `RunConfig`, whose module has these functions called and so cannot be imported here.
"""

from typing import Any

from concord.bert.errors import InputError, shown
from concord.train.settings.options import flag_of, setting_text
from concord.train.settings.tables import DEMO

_HIGHEST_SAMPLING_WEIGHT = 1000


def check_scope(flat: Any) -> None:
    """InputError where the dot products of surgery's scope are not those of its granularity."""
    if flat.surgery_scope == "all" and flat.granularity != "model":
        raise InputError(
            "--surgery-scope all: its dot products are the whole model's, not those of --granularity "
            f"{flat.granularity}"
        )


def check_table(flat: Any) -> None:
    """InputError where flags of `--train-file` stand without it, or it is given more than one task or two columns."""
    if not flat.train_file:
        for name in ("validation_file", "test_file", "text_column", "label_column"):
            if getattr(flat, name):
                raise InputError(f"{flag_of(name)} {setting_text(getattr(flat, name))}: it is of --train-file FILE")
        return
    if flat.data != DEMO:
        raise InputError(f"--data {shown(flat.data)} and --train-file: expected one of them")
    if len(flat.tasks) != 1:
        raise InputError(f"--tasks {','.join(flat.tasks)}: --train-file is of one task; several are a tasks.toml's")
    if len(flat.text_column) > 2 or len(set(flat.text_column)) != len(flat.text_column):
        raise InputError(f"--text-column {','.join(flat.text_column)}: expected one column, or two different ones")


def check_micro_batch(flat: Any) -> None:
    """InputError where a step's batch is to be divided in two ways, or into parts that are larger than it."""
    if not flat.micro_batch:
        return
    if flat.accumulate != 1:
        raise InputError(f"--micro-batch {flat.micro_batch}: expected no --accumulate {flat.accumulate} beside it")
    if flat.micro_batch > flat.batch_size:
        raise InputError(f"--micro-batch {flat.micro_batch}: expected {flat.batch_size} at most, the --batch-size")


def check_sampling_weights(flat: Any) -> None:
    """InputError where a batch would hold nothing of a task by its sampling weight, or would be huge."""
    for weight in flat.numbers_per_task("sampling_weights").values():
        if not 0 < weight <= _HIGHEST_SAMPLING_WEIGHT:
            raise InputError(
                f"--sampling-weights {weight:g}: expected a number above 0, {_HIGHEST_SAMPLING_WEIGHT} at most"
            )


def check_decay(flat: Any) -> None:
    """InputError where a step would take more of a weight than there is, by the rates that the flags give."""
    head_rates = flat.numbers_per_task("head_learning_rate")
    check_shrinkage(max(flat.learning_rate, *(head_rates[task] for task in flat.tasks)), flat.weight_decay)


def check_shrinkage(rate: float, decay: float) -> None:
    """InputError where a step, which shrinks a weight by its rate times the decay, would take more than there is."""
    if rate * decay >= 1:
        raise InputError(f"--weight-decay {decay}: expected less than {1 / rate:g} with the rate of {rate:g}")


def check_milestones(flat: Any) -> None:
    """InputError where the milestones are no epochs, or no schedule goes by them."""
    for item in flat.milestones:
        if not item.isdecimal():
            raise InputError(f"--milestones {item}: expected epochs, such as 5,25")
    if bool(flat.milestones) != (flat.schedule == "milestones"):
        raise InputError("--milestones and --schedule milestones need each other")


def check_stages(flat: Any) -> None:
    """InputError where nothing of a stage is trained by what is asked for."""
    stages, smart = flat.parsed_stages(), flat.numbers_per_task("smart")
    if flat.pals and any(stage.trains == "heads" for stage in stages):
        raise InputError("--pals: they are trained with the encoder, not in stages of the heads alone")
    if not flat.trains_encoder() and any(smart[task] for task in flat.tasks):
        raise InputError(
            f"--smart {','.join(flat.smart)}: it smooths the encoder, which --stages {','.join(flat.stages)} "
            "never trains"
        )
