"""Draw a run's page: python -m train.report RUN_DIR writes report.html into its folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.train.command import run_command
from concord.train.flags import OneLineParser


def main(arguments: Sequence[str] | None = None) -> Path:
    """Write the page from what the run has left so far, and return its path; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m train.report",
        description="Write report.html into the folder of a fine-tuning run, or of several seeds, done or not, from "
        "what lies there.",
    )
    parser.add_argument("run", metavar="RUN_DIR", help="folder of the run")
    directory = Path(parser.parse(arguments).run)
    # Imported once the flags have proved good: torch comes with it.
    from concord.bert.errors import visible
    from concord.train.reports.comparison_page import write_seeds_page
    from concord.train.reports.members import is_seeds, read_member
    from concord.train.reports.page import write_report
    from concord.train.reports.stored_run import read_run

    path = write_seeds_page(read_member(directory)) if is_seeds(directory) else write_report(read_run(directory))
    print(visible(f"written    {path}"))
    return path


if __name__ == "__main__":
    sys.exit(run_command(main))
