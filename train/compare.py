"""Compare runs: python -m train.compare RUN_DIR RUN_DIR ... prints what differs in them, and what came of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.outputs.names import SEEDS_FILE

_MOST = 26  # runs, a letter each


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison; raises InputError for bad input."""
    given = _parser().parse(arguments)
    runs = [Path(run) for run in given.runs]
    alone = len(runs) == 1 and (runs[0] / SEEDS_FILE).is_file()
    if not (2 <= len(runs) <= _MOST or alone):
        raise InputError(f"{len(runs)} runs, expected from 2 to {_MOST} folders of runs, or one of several seeds")
    # Imported once the flags have proved good: torch comes with it.
    from concord.bert.errors import visible
    from concord.train.reports.comparing import compare, text_of
    from concord.train.reports.members import Member, read_member

    members = [read_member(run) for run in runs]
    if alone:
        members = [Member(run.directory, [run]) for run in members[0].runs]
    if not 2 <= len(members) <= _MOST:
        raise InputError(f"{runs[0]}: {len(members)} of its seeds have begun, expected from 2 to {_MOST}")
    comparison = compare(members)
    print("\n".join(map(visible, text_of(comparison).splitlines())))
    if given.html:
        from concord.train.reports.comparison_page import write_comparison

        path = write_comparison(comparison, Path(given.html))
        print(visible(f"written    {path}"))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m train.compare",
        description="Compare fine-tuning runs: changed settings, dev scores, speed and conflicts, and the differences "
        "of the others from the first with an interval over the dev examples.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN_DIR",
        help="folders of runs, or of several seeds; the first is what others differ from, the seeds of one alone are "
        "compared with one another",
    )
    parser.add_argument("--html", metavar="FILE", help="write the same as a page, with the curves of all runs")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
