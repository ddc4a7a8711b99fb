"""From a configuration to a fine-tuning run that is ready to train: what is read and built before its first step."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from concord.bert.errors import InputError
from concord.train.checks.shapes import shapes_of_run
from concord.train.data.datasets import load_datasets, run_tasks
from concord.train.data.tasks import Task, read_tasks, write_tasks
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.names import CACHE, CONFIG_FILE, TASKS_FILE
from concord.train.runs.fine_tuning import FineTuning
from concord.train.runs.session import Session
from concord.train.settings.config import RunConfig
from concord.train.settings.files import write_config
from concord.train.settings.idle import without_effect
from concord.train.steps.build import build_model, build_optimizer, fit_model, load_pretrained
from concord.train.steps.graphs import choose_graphs
from concord.train.steps.loop import Trainer
from concord.train.steps.precision import choose_kernels, choose_precision
from concord.train.steps.weightings import describe_surgery


def begin_fine_tuning(folder: RunFolder, config: RunConfig, console: Console) -> FineTuning:
    """Read, check and build all of a run, or of one that goes on, and say what it is.

    Raises InputError for whatever is wrong with its input, before anything is written.
    """
    tasks = run_tasks(config)
    if folder.resumed:
        _check_tasks(tasks, folder.path / TASKS_FILE)
    session = Session(folder, console, choose_precision(config.device, config.amp))
    _introduce(session, config, tasks)
    pretrained = load_pretrained(config)
    session.say(f"model      {pretrained.origin}")
    given, config = config, fit_model(config, pretrained.encoder.config)
    below = "" if config.layer_decay == 1 else f" (times {config.layer_decay:g} from each layer to the one below)"
    heads = ",".join(config.head_learning_rate)
    session.say(f"rates      encoder {config.learning_rate:.3g}{below}, heads {heads} at their peak")
    data = load_datasets(config, tasks, pretrained.tokenizer, folder.path.resolve().parent / CACHE, session.warn)
    sizes = ", ".join(f"{task.name} {len(data.train[task.name])}/{len(data.dev[task.name])}" for task in tasks)
    session.say(f"data       {config.data}: {sizes} (train/dev examples)")
    others = [*data.dev.values(), *data.test.values()]
    session.resolve_kernels(
        config.kernels,
        config.self_check,
        lambda: shapes_of_run(config, pretrained.encoder, data.train, others, session.precision),
    )
    graphs, reason = choose_graphs(config, session.precision.device)
    if session.precision.device.type == "cuda":
        session.say(f"graphs     {reason}")
    model = build_model(config, tasks, pretrained.encoder, session.precision)
    optimizer = build_optimizer(config, model, session.precision)
    trainer = Trainer(config, model, optimizer, data.train, session.precision.device, graphs=graphs, say=session.say)
    settings = {CONFIG_FILE: lambda path: write_config(given, path), TASKS_FILE: lambda path: write_tasks(path, tasks)}
    session.open(optimizer, data.digests(), settings)
    if folder.resumed:
        session.say(f"resumed    after step {session.progress.steps} of {trainer.total_steps}")
    return FineTuning(session, config, tasks, pretrained.tokenizer, data, trainer)


def _introduce(session: Session, config: RunConfig, tasks: list[Task]) -> None:
    """The first lines, and what cannot be: InputError before anything is read."""
    precision = session.precision
    session.say(f"device     {precision.device_name}")
    session.say(f"precision  {precision.name} ({precision.reason})")
    choose_kernels(config.kernels, precision)
    session.say(f"surgery    {describe_surgery(config)}")
    choose_graphs(config, precision.device)
    for text in without_effect(config, [task.kind for task in tasks]):
        session.warn(text)


def _check_tasks(tasks: list[Task], path: Path) -> None:
    """InputError where `tasks` are not those that a run, which is to go on, has begun with: they lie at `path`."""
    kept = {task.name: asdict(task) for task in read_tasks(path)}
    for task in tasks:
        for name, value in asdict(task).items():
            before = kept.get(task.name, {}).get(name)
            if value != before:
                raise InputError(
                    f"task {task.name}: its {name} is {value!r}, but {before!r} where the run in {path.parent} began"
                )
