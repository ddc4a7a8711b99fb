"""What a run's best model answers: the dev sets, which are scored, and files of the user's own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from concord.bert.errors import InputError, did_you_mean
from concord.train.data.course import read_plain_input
from concord.train.data.datasets import load_datasets, tokenize
from concord.train.data.definitions import TableSpec, is_saved_folder, is_table_name
from concord.train.data.sources import data_files
from concord.train.data.tables import read_plain_table
from concord.train.data.tasks import Task
from concord.train.objectives.metrics import overall
from concord.train.objectives.undefined import weak_answers, weak_labels
from concord.train.outputs.named_output import check_output, write_named
from concord.train.outputs.names import BEST
from concord.train.outputs.predictions import prediction_text
from concord.train.outputs.saved_run import load_run
from concord.train.outputs.summary import score_line
from concord.train.reporter import Reporter
from concord.train.settings.parts import DataConfig
from concord.train.steps.evaluation import evaluate, predict


def evaluate_run(
    directory: Path, reporter: Reporter, *, device: str, data: str | None, dev_examples: int, skip_bad_rows: bool
) -> dict[str, dict[str, float]]:
    """Say the dev metrics of every task of the run in `directory`, and return them: task -> name -> value.

    data: what is read instead of the run's own data, None for those; dev_examples: how many of each task, 0 for all;
    skip_bad_rows: whether rows that cannot be used are skipped, as they are in any case where the run did. InputError
    as `load_run` and `load_datasets` raise it.
    """
    saved = load_run(directory, device, reporter)
    config = saved.config.data
    if data:
        config = _with_data(config, data, saved.tasks)
    config = replace(
        config,
        dev_examples=dev_examples,
        skip_bad_rows=skip_bad_rows or config.skip_bad_rows,
    )
    datasets = load_datasets(
        config,
        saved.tasks,
        saved.tokenizer,
        None,
        reporter,
        splits=("dev",),
    )
    reporter.say(f"device     {saved.precision.device_name}, {saved.precision.name} ({saved.precision.reason})")
    reporter.say(f"kernels    {saved.kernels}")
    if saved.products:
        reporter.say(f"products   {saved.products}")
    sizes = ", ".join(f"{name} {len(split)}" for name, split in datasets.dev.items())
    reporter.say(f"data       {config.source}: {sizes} (dev examples)")
    with reporter.reading("dev sets", sum(map(len, datasets.dev.values()))):
        metrics, answers = evaluate(saved.model, datasets.dev, saved.precision.device, reporter=reporter)
    for name, split in datasets.dev.items():
        own = answers[name]
        for problem in (
            weak_labels(split.task, "dev", split.labels),
            weak_answers(split.task, own.predictions, own.errors),
        ):
            if problem:
                reporter.warn(problem)
    reporter.say(f"dev        {score_line(metrics)}")
    for name, threshold in saved.model.thresholds().items():
        reporter.say(f"           {name} is 1 above {threshold:.3f}, as was best on the dev set in training")
    score, mean = overall(metrics, saved.tasks)
    reporter.say(f"           mean {mean:.3f}" + ("" if score is None else f"  overall {score:.3f}"))
    return metrics


def _with_data(config: DataConfig, data: str, tasks: Sequence[Task]) -> DataConfig:
    """The settings with other data, that --data names; a file of rows is the dev set of the only task."""
    path = Path(data)
    if not (is_saved_folder(path) or (is_table_name(path.name) and not path.is_dir())):
        return replace(config, source=data, table=None)
    if len(tasks) != 1 or not tasks[0].table:
        raise InputError(
            f"--data {data}: a file of rows, of which the run would need one task; expected a tasks.toml or a folder"
        )
    (task,) = tasks
    columns = {"text_columns": task.text_columns, "label_column": task.label_column}
    spec = TableSpec(name=task.name, train="", validation=data, named_by=f"--data {data}", **columns)
    return replace(config, source=data, table=spec)


def predict_file(directory: Path, reporter: Reporter, *, device: str, task: str, source: Path, output: Path) -> None:
    """Write one prediction for each row of the file `source`, with the best model of the run in `directory`.

    task: one of the run's. InputError where it is not, where something would be lost by writing to `output`, see
    `check_output`, and as `load_run` and `read_plain_input` raise it.
    """
    check_output(output, [source, *directory.glob("*"), *(directory / BEST).glob("*")])
    saved = load_run(directory, device, reporter)
    tasks = {one.name: one for one in saved.tasks}
    if task not in tasks:
        raise InputError(f"--task {task}: the run in {directory} was not trained on it, {did_you_mean(task, tasks)}")
    own, config = tasks[task], saved.config
    check_output(output, [*data_files(config.data), *Path(config.model.name).glob("*")])
    examples = read_plain_table(own, source) if own.table else read_plain_input(own, source)
    empty = sum(not (example.first and (example.second or not own.pair)) for example in examples)
    if empty:
        reporter.warn(f"{empty} rows lack a sentence; they are answered as empty texts")
    split = tokenize(config.data, own, examples, saved.tokenizer, None)
    if split.truncated:
        reporter.warn(f"{split.truncated} rows were longer than {config.data.max_length} wordpieces and cut")
    with reporter.reading(task, len(split)):
        answers = predict(saved.model, split, saved.precision.device, reporter)
    write_named(output, prediction_text(own, split.example_ids, answers))
    reporter.say(f"{len(split)} predictions of {task} written to {output}")
