"""From a configuration to a fine-tuning run that is ready to train: what is read and built before its first step."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.tokenizer import Tokenizer
from concord.train.checks.shapes import shapes_of_run
from concord.train.data.datasets import Datasets, load_datasets, run_tasks
from concord.train.data.tasks import Task, read_tasks, write_tasks
from concord.train.objectives.class_weights import class_weights, describe_class_weights
from concord.train.objectives.metrics import check_best_metric, check_metrics
from concord.train.objectives.undefined import weak_labels
from concord.train.outputs.adapters.told import with_adapters
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.names import CACHE, CONFIG_FILE, HELD_OUT_FILE, TASKS_FILE
from concord.train.outputs.stopping import StoppableReporter
from concord.train.ranks.environment import Launch
from concord.train.ranks.group import Ranks
from concord.train.reporter import Reporter
from concord.train.runs.fine_tuning import FineTuning
from concord.train.runs.following import FollowingSession
from concord.train.runs.session import Session
from concord.train.settings.config import RunConfig
from concord.train.settings.files import write_config
from concord.train.settings.idle import without_effect
from concord.train.settings.options import setting_text
from concord.train.settings.parts import DataConfig, FineTuningConfig, ObjectiveConfig, OptimizerConfig
from concord.train.settings.typed import fine_tuning_config
from concord.train.settings.values import NONE, OF_TASK
from concord.train.steps.build import build_model, build_optimizer, build_trainer, fit_model, load_pretrained
from concord.train.steps.graphs import choose_graphs
from concord.train.steps.precision import Precision, choose_kernels, choose_precision
from concord.train.steps.weightings import describe_surgery


def begin_fine_tuning(
    folder: RunFolder,
    flat: RunConfig,
    reporter: Reporter,
    ranks: Ranks | None = None,
    launch: Launch | None = None,
) -> FineTuning:
    """Read, check and build all of a run, or of one that goes on, and say what it is.

    flat: the run's settings as its folder keeps them; reporter: is told what the run does; ranks: of the run, on its
    device, None for a process that is alone; launch: what has started it, if anything. Raises InputError for
    whatever is wrong with the run's input, before anything is written.
    """
    # Of several ranks one tells other tools of the run, as one prints.
    leads = ranks is None or ranks.leads
    config, reporter = fine_tuning_config(flat), with_adapters(reporter, flat.report_to if leads else ())
    tasks = choose_metrics(run_tasks(config.data), config.objectives)
    check_metrics(tasks)
    check_best_metric(config.outputs.best_metric, tasks)
    if folder.resumed:
        _check_tasks(tasks, folder.path / TASKS_FILE)
    precision = choose_precision(config.compute.device, config.compute.amp)
    session = _session(folder, reporter, precision, ranks, launch)
    _introduce(session, flat, config, tasks)
    with _one_of_a_machine_first(ranks):
        pretrained = load_pretrained(config.model)
    reporter.say(f"model      {pretrained.origin}")
    if pretrained.tokenizer.remark:
        reporter.warn(pretrained.tokenizer.remark)
    config = fit_model(config, pretrained.encoder.config)
    _say_rates(session, flat, config.optimizer)
    with _one_of_a_machine_first(ranks):
        data = _load_data(session, config.data, tasks, pretrained.tokenizer)
        others = [*data.dev.values(), *data.test.values()]
        session.resolve_kernels(
            config.compute, lambda: shapes_of_run(config, pretrained.encoder, data.train, others, precision)
        )
    graphs, reason = choose_graphs(config, precision.device, ranks)
    if precision.device.type == "cuda":
        reporter.say(f"graphs     {reason}")
    model = build_model(config, tasks, pretrained.encoder, precision, ranks)
    optimizer = build_optimizer(config, model, precision, ranks)
    told = StoppableReporter(reporter, session.stop)
    for own in data.train.values():
        if (weights := class_weights(own.task, own.labels)) is not None:
            reporter.say(f"weights    {describe_class_weights(own.task, weights)}")
    trainer = build_trainer(
        config, model, optimizer, data.train, precision.device, graphs=graphs, reporter=told, ranks=ranks
    )
    settings = {CONFIG_FILE: lambda path: write_config(flat, path), TASKS_FILE: lambda path: write_tasks(path, tasks)}
    if data.held_out:
        content = json.dumps(data.held_out, indent=1) + "\n"
        settings[HELD_OUT_FILE] = lambda path: path.write_text(content, encoding="utf-8")
    session.open(optimizer, data.digests(), settings, trainer.total_steps)
    reporter.open_run(session.directory, asdict(flat), session.progress.steps)
    if folder.resumed:
        reporter.say(f"resumed    after step {session.progress.steps} of {trainer.total_steps}")
    max_length, rule = config.data.max_length, config.surgery.rule
    return FineTuning(session, config.outputs, tasks, pretrained.tokenizer, data, trainer, max_length, rule)


def _session(
    folder: RunFolder, reporter: Reporter, precision: Precision, ranks: Ranks | None, launch: Launch | None
) -> Session:
    """The life of the run in its folder, which one process has; the others follow it."""
    if ranks is not None and not ranks.leads:
        return FollowingSession(folder, precision, ranks)
    return Session(folder, reporter, precision, ranks, launch.name if launch else "")


def _one_of_a_machine_first(ranks: Ranks | None) -> AbstractContextManager[None]:
    """Within this context one process of each machine downloads, tokenises and judges before the others."""
    return nullcontext() if ranks is None else ranks.one_of_a_machine_first()


def choose_metrics(tasks: Sequence[Task], config: ObjectiveConfig) -> list[Task]:
    """The tasks with the metrics and the class weights that the settings give them; InputError where one does not
    fit."""
    found = []
    for task in tasks:
        metric, weights = config.metrics[task.name], config.class_weights[task.name]
        if metric != OF_TASK:
            with _of_flag(f"--metric {task.name}={metric}"):
                task = replace(task, metric=metric)
        if weights != OF_TASK:
            with _of_flag("--class-weights"):
                task = replace(task, class_weights=None if weights == NONE else weights)
        found.append(task)
    return found


@contextmanager
def _of_flag(flag: str) -> Iterator[None]:
    """Within this context an InputError begins with the flag."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{flag}: {error}") from None


def _introduce(session: Session, flat: RunConfig, config: FineTuningConfig, tasks: list[Task]) -> None:
    """Say the first lines; InputError where the settings and this machine do not fit, before anything is read."""
    precision = session.precision
    session.reporter.say(f"device     {precision.device_name}")
    if session.ranks:
        session.reporter.say(f"ranks      {session.ranks.size} processes, each with its part of every batch and state")
    session.reporter.say(f"precision  {precision.name} ({precision.reason})")
    choose_kernels(config.compute.kernels, precision)
    session.reporter.say(f"surgery    {describe_surgery(config.surgery)}")
    choose_graphs(config, precision.device, session.ranks)
    for text in without_effect(flat, [task.kind for task in tasks]):
        session.reporter.warn(text)


def _say_rates(session: Session, flat: RunConfig, optimizer: OptimizerConfig) -> None:
    decay = optimizer.layer_decay
    below = "" if decay == 1 else f" (times {decay:g} from each layer to the one below)"
    heads = setting_text(flat.head_learning_rate)
    session.reporter.say(f"rates      encoder {optimizer.learning_rate:.3g}{below}, heads {heads} at their peak")


def _load_data(session: Session, config: DataConfig, tasks: list[Task], tokenizer: Tokenizer) -> Datasets:
    cache = session.directory.resolve().parent / CACHE
    data = load_datasets(config, tasks, tokenizer, cache, session.reporter)
    sizes = ", ".join(f"{task.name} {len(data.train[task.name])}/{len(data.dev[task.name])}" for task in tasks)
    session.reporter.say(f"data       {config.source}: {sizes} (train/dev examples)")
    for split, sets in (("train", data.train), ("dev", data.dev)):
        for own in sets.values():
            if problem := weak_labels(own.task, split, own.labels):
                session.reporter.warn(problem)
    return data


def _check_tasks(tasks: list[Task], path: Path) -> None:
    """InputError where `tasks` are not those that a run, which is to go on, has begun with: they lie at `path`."""
    kept = {task.name: asdict(task) for task in read_tasks(path)}
    names = [option.name for option in fields(Task) if option.compare]
    for task in tasks:
        for name in names:
            value, before = getattr(task, name), kept.get(task.name, {}).get(name)
            if value != before:
                raise InputError(
                    f"task {task.name}: its {name} is {value!r}, but {before!r} where the run in {path.parent} began"
                )
