"""Compare runs: python -m train.compare RUN_DIR RUN_DIR ... prints what differs in them, and what came of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import OneLineParser

_MOST = 26  # runs, a letter each


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison; raises InputError for bad input."""
    given = _parser().parse(arguments)
    if not 2 <= len(given.runs) <= _MOST:
        raise InputError(f"{len(given.runs)} runs, expected from 2 to {_MOST} folders of runs")
    # Imported once the flags have proved good: torch comes with it.
    from concord.bert.errors import visible
    from concord.train.reports.comparing import compare, text_of
    from concord.train.reports.stored_run import read_run

    comparison = compare([read_run(Path(run)) for run in given.runs])
    print("\n".join(map(visible, text_of(comparison).splitlines())))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m train.compare",
        description="Compare fine-tuning runs: changed settings, dev scores, speed and conflicts, and the differences "
        "of the others from the first with an interval over the dev examples.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="folders of runs; the first is what others differ from"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
