"""Predict with a run's best model: python -m train.predict RUN_DIR --task sst --input FILE --output FILE.

The input is tab-delimited, with a header that names the task's sentence columns and, if there are ids, `id`. Every row
has its answer in its place; a blank one is an empty text.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError, did_you_mean
from concord.train.command import run_command
from concord.train.data.course import read_plain_input
from concord.train.data.datasets import tokenize
from concord.train.flags import OneLineParser
from concord.train.outputs.console import OutputConsole
from concord.train.outputs.named_output import check_output, is_standard_output, write_named
from concord.train.outputs.names import BEST
from concord.train.outputs.predictions import prediction_text
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.saved_run import load_run
from concord.train.steps.evaluation import predict


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one prediction a row of the input; raises InputError for bad input."""
    given = _parser().parse(arguments)
    output, directory = Path(given.output), Path(given.run)
    check_output(output, [Path(given.input), *directory.glob("*"), *(directory / BEST).glob("*")])
    # Where the answers go to the standard output, nothing else does.
    reporter = ConsoleReporter(OutputConsole(stderr=is_standard_output(output)))
    saved = load_run(directory, given.device, reporter)
    tasks = {task.name: task for task in saved.tasks}
    if given.task not in tasks:
        raise InputError(
            f"--task {given.task}: the run in {given.run} was not trained on it, {did_you_mean(given.task, tasks)}"
        )
    task, config = tasks[given.task], saved.config
    check_output(output, [*Path(config.data.source).glob("*.csv"), *Path(config.model.name).glob("*")])
    examples = read_plain_input(task, Path(given.input))
    empty = sum(not (example.first and (example.second or not task.pair)) for example in examples)
    if empty:
        reporter.warn(f"{empty} rows lack a sentence; they are answered as empty texts")
    split = tokenize(config.data, task, examples, saved.tokenizer, None)
    if split.truncated:
        reporter.warn(f"{split.truncated} rows were longer than {config.data.max_length} wordpieces and cut")
    with reporter.reading(task.name, len(split)):
        answers = predict(saved.model, split, saved.precision.device, reporter)
    write_named(output, prediction_text(task, split.example_ids, answers))
    reporter.say(f"{len(split)} predictions of {task.name} written to {output}")


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m train.predict", description="Predict with the best model of a run.")
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--task", required=True, help="one of the run's tasks")
    parser.add_argument("--input", required=True, help="tab-delimited file with the task's sentences")
    parser.add_argument("--output", required=True, help="CSV file to write")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
