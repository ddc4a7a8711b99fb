"""Writes the demo data set as files in the course's layout: python -m train.demo --out DIR."""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.train.command import run_command
from concord.train.flags import OneLineParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m train.demo", description="Write the generated demo data set as files in the course's layout."
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write the files into")
    directory = parser.parse(arguments).out
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.data.demo_files import write_demo

    print(f"wrote {len(write_demo(directory))} files into {directory}")


if __name__ == "__main__":
    sys.exit(run_command(main))
