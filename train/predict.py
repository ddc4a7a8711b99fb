"""Predict with a run's best model: python -m train.predict RUN_DIR --task sst --input FILE --output FILE.

The input is tab-delimited, with a header that names the task's sentence columns and, if there are ids, `id`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError, did_you_mean
from concord.train.command import run_command
from concord.train.data.course import read_plain_input
from concord.train.data.datasets import tokenize
from concord.train.flags import OneLineParser
from concord.train.outputs.predictions import write_predictions
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.saved_run import load_run
from concord.train.steps.evaluation import predict


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one prediction a row of the input; raises InputError for bad input."""
    given = _parser().parse(arguments)
    reporter = ConsoleReporter()
    saved = load_run(Path(given.run), given.device, reporter)
    tasks = {task.name: task for task in saved.tasks}
    if given.task not in tasks:
        raise InputError(
            f"--task {given.task}: the run in {given.run} was not trained on it, {did_you_mean(given.task, tasks)}"
        )
    task, output = tasks[given.task], Path(given.output)
    if output.exists() and Path(given.input).exists() and output.samefile(given.input):
        raise InputError(f"--output {output}: it is the input itself, expected another file")
    examples = read_plain_input(task, Path(given.input))
    split = tokenize(saved.config.data, task, examples, saved.tokenizer, None)
    if split.truncated:
        reporter.warn(f"{split.truncated} rows were longer than {saved.config.data.max_length} wordpieces and cut")
    with reporter.reading(task.name, len(split)):
        answers = predict(saved.model, split, saved.precision.device, reporter)
    write_predictions(output, task, split.example_ids, answers)
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
