"""List runs: python -m train.runs_list [DIR] prints a line for each run in a folder, with how it stands."""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.train.command import run_command
from concord.train.flags import OneLineParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the list; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m train.runs_list",
        description="List the runs in a folder and below it: done, running, stopped (--resume goes on) or failed.",
    )
    parser.add_argument("directory", nargs="?", default="runs", metavar="DIR", help="default runs")
    directory = Path(parser.parse(arguments).directory)
    # Imported once the flags have proved good: torch comes with it.
    from concord.bert.errors import visible
    from concord.train.reports.comparing import columns
    from concord.train.reports.listing import HEADER, row_of, run_folders

    rows = [row_of(run) for run in run_folders(directory)]
    for line in columns([HEADER, *rows]) if rows else [f"no runs in {directory}"]:
        print(visible(line))


if __name__ == "__main__":
    sys.exit(run_command(main))
