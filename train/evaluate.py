"""Evaluate a run's best model: python -m train.evaluate RUN_DIR [--data DIR] [--skip-bad-rows] [--dev-examples N]."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from concord.train.command import run_command
from concord.train.data.datasets import load_datasets
from concord.train.flags import OneLineParser
from concord.train.objectives.metrics import overall
from concord.train.objectives.undefined import weak_answers, weak_labels
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.saved_run import load_run
from concord.train.outputs.summary import score_line
from concord.train.steps.evaluation import evaluate


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the dev metrics of every task, and return them; raises InputError for bad input."""
    given = _parser().parse(arguments)
    reporter = ConsoleReporter()
    directory = Path(given.run)
    saved = load_run(directory, given.device, reporter)

    config = saved.config.data
    config = replace(
        config,
        source=given.data or config.source,
        dev_examples=given.dev_examples,
        skip_bad_rows=given.skip_bad_rows or config.skip_bad_rows,
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


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m train.evaluate", description="Evaluate the best model of a run on the dev sets."
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--data", help="directory in the course layout, or demo (default: the run's own)")
    parser.add_argument(
        "--skip-bad-rows", action="store_true", help="skip rows that cannot be used, as where the run itself did"
    )
    parser.add_argument(
        "--dev-examples", type=int, default=0, help="so many of each task, evenly spaced (default all of them)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
