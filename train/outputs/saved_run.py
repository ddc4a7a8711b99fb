"""A run's best model, read again to answer."""

from dataclasses import dataclass
from pathlib import Path

from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.models import load_tokenizer, read_encoder
from concord.bert.multitask import MultitaskModel
from concord.bert.tensor_files import check_files
from concord.bert.tokenizer import Tokenizer
from concord.train.checks.products import resolve_products
from concord.train.checks.self_check import resolve_kernels
from concord.train.checks.shapes import shapes_of_prediction
from concord.train.data.tasks import Task, read_tasks
from concord.train.outputs.folders import check_single
from concord.train.outputs.names import BEST, CONFIG_FILE, TASKS_FILE
from concord.train.reporter import Reporter
from concord.train.settings.files import read_config
from concord.train.settings.own import check_trusted, own_names
from concord.train.settings.parts import FineTuningConfig
from concord.train.settings.typed import fine_tuning_config
from concord.train.steps.build import build_model, fit_model, load_pretrained
from concord.train.steps.precision import Precision, choose_precision

_ANSWER_WITH = ("data", "heads", "losses")  # their code is needed: a loss tells the link of its answers


@dataclass(frozen=True)
class SavedRun:
    """A run's best model, ready to answer.

    Attributes:
        config: its settings, as the model fits them.
        tasks: in the order of the run.
        model: on the device, with the best weights.
        tokenizer: of the model.
        precision: device and number format.
        kernels: which kernels its ops take, in words.
        products: what multiplies its fp32 matrices, in words; empty where that is no question.
    """

    config: FineTuningConfig
    tasks: list[Task]
    model: MultitaskModel
    tokenizer: Tokenizer
    precision: Precision
    kernels: str
    products: str


def load_run(directory: Path, device: str, reporter: Reporter, amp: str = "") -> SavedRun:
    """The best model of the run in `directory`, on `device`, whose kernels are checked before they are trusted.

    reporter: is told what comes of that check; amp: the number format, as --amp takes it, "" for the run's own.
    Raises InputError where the folder is not a run, or that of several, its best model is missing yet or damaged, as
    any file that it is read with, or it names code that is not trusted.
    """
    check_single(directory)
    flat = read_config(directory / CONFIG_FILE)
    check_trusted(own_names(vars(flat), _ANSWER_WITH), (), directory)
    config = fine_tuning_config(flat)
    precision = choose_precision(device, amp or config.compute.amp)
    best = directory / BEST
    if not best.is_dir():
        raise InputError(f"{directory}: the run has no best model yet, expected one that has been evaluated")
    tasks = read_tasks(directory / TASKS_FILE)
    encoder = read_encoder(best / CONFIG_FILE)
    config, model, kernels, products = _built(config, tasks, encoder, precision, reporter)
    check_files(best, model.load(best))
    return SavedRun(config, tasks, model, load_tokenizer(best, encoder.config), precision, kernels, products)


def load_encoder(config: FineTuningConfig, tasks: list[Task], device: str, reporter: Reporter, amp: str) -> SavedRun:
    """A pretrained model as a run would begin with it, so that its encoder is used as a run's is.

    config: names the model and its pooling; tasks: whose heads, which are new, are of no use; the rest as for
    `load_run`. InputError as `load_model` raises it.
    """
    precision, pretrained = choose_precision(device, amp), load_pretrained(config.model)
    config, model, kernels, products = _built(config, tasks, pretrained.encoder, precision, reporter)
    return SavedRun(config, tasks, model, pretrained.tokenizer, precision, kernels, products)


def _built(
    config: FineTuningConfig, tasks: list[Task], encoder: Encoder, precision: Precision, reporter: Reporter
) -> tuple[FineTuningConfig, MultitaskModel, str, str]:
    """The settings as the encoder fits them, the model on the device, and the kernels and products that it takes."""
    config = fit_model(config, encoder.config)
    kernels = resolve_kernels(
        "auto",
        config.compute.self_check,
        precision,
        lambda: shapes_of_prediction(config, encoder.config, precision),
        reporter,
    )
    products = resolve_products("auto", precision)
    return config, build_model(config, tasks, encoder, precision), kernels, products
