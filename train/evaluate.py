"""Evaluate a run's best model: python -m train.evaluate RUN_DIR [--data DATA] [--skip-bad-rows] [--dev-examples N]."""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.train.command import run_command
from concord.train.flags import OneLineParser, check_numbers
from concord.train.settings.config import DEVICES
from concord.train.settings.options import MOST


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the dev metrics of every task, and return them; raises InputError for bad input."""
    given = _parser().parse(arguments)
    check_numbers(given, dev_examples=(0, MOST))
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.progress import ConsoleReporter
    from concord.train.runs.answering import evaluate_run

    return evaluate_run(
        Path(given.run),
        ConsoleReporter(),
        device=given.device,
        data=given.data,
        dev_examples=given.dev_examples,
        skip_bad_rows=given.skip_bad_rows,
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m train.evaluate", description="Evaluate the best model of a run on the dev sets."
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument(
        "--data",
        help="tasks.toml, directory in the course layout, demo, or file of labelled rows (default: the run's own)",
    )
    parser.add_argument(
        "--skip-bad-rows", action="store_true", help="skip rows that cannot be used, as where the run itself did"
    )
    parser.add_argument(
        "--dev-examples", type=int, default=0, help="so many of each task, evenly spaced (default all of them)"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default auto")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
