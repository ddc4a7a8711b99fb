"""What a run's best model answers: the dev sets, which are scored, and files of the user's own."""

from dataclasses import replace
from pathlib import Path

from concord.bert.errors import InputError, did_you_mean
from concord.train.data.course import read_plain_input
from concord.train.data.datasets import load_datasets, tokenize
from concord.train.objectives.metrics import overall
from concord.train.outputs.predictions import write_predictions
from concord.train.outputs.saved_run import load_run
from concord.train.outputs.summary import score_line
from concord.train.reporter import Reporter
from concord.train.steps.evaluation import evaluate, predict


def evaluate_run(
    directory: Path, reporter: Reporter, *, device: str, data: str | None, dev_examples: int, skip_bad_rows: bool
) -> None:
    """Say the dev metrics of every task of the run in `directory`.

    data: what is read instead of the run's own data, None for those; dev_examples: how many of each task, 0 for all;
    skip_bad_rows: whether rows that cannot be used are skipped, as they are in any case where the run did. InputError
    as `load_run` and `load_datasets` raise it.
    """
    saved = load_run(directory, device, reporter)
    config = saved.config.data
    config = replace(
        config,
        source=data or config.source,
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
        metrics, _ = evaluate(saved.model, datasets.dev, saved.precision.device, reporter=reporter)
    reporter.say(f"dev        {score_line(metrics)}")
    for name, threshold in saved.model.thresholds().items():
        reporter.say(f"           {name} is 1 above {threshold:.3f}, as was best on the dev set in training")
    score, mean = overall(metrics, saved.tasks)
    reporter.say(f"           mean {mean:.3f}" + ("" if score is None else f"  overall {score:.3f}"))


def predict_file(directory: Path, reporter: Reporter, *, device: str, task: str, source: Path, output: Path) -> None:
    """Write one prediction for each row of the file `source`, with the best model of the run in `directory`.

    task: one of the run's. InputError where it is not, where `output` is the input itself, and as `load_run` and
    `read_plain_input` raise it.
    """
    saved = load_run(directory, device, reporter)
    tasks = {one.name: one for one in saved.tasks}
    if task not in tasks:
        raise InputError(f"--task {task}: the run in {directory} was not trained on it, {did_you_mean(task, tasks)}")
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"--output {output}: it is the input itself, expected another file")
    examples = read_plain_input(tasks[task], source)
    split = tokenize(saved.config.data, tasks[task], examples, saved.tokenizer, None)
    if split.truncated:
        reporter.warn(f"{split.truncated} rows were longer than {saved.config.data.max_length} wordpieces and cut")
    with reporter.reading(task, len(split)):
        answers = predict(saved.model, split, saved.precision.device, reporter)
    write_predictions(output, tasks[task], split.example_ids, answers)
    reporter.say(f"{len(split)} predictions of {task} written to {output}")
