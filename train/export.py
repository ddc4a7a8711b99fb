"""Export a run's best model: python -m train.export RUN_DIR --format FORMAT [--task T] --output DIR.

transformers takes one task; sentence-transformers the embeddings, or one task of pairs; onnx all tasks, or those named.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.train.command import run_command
from concord.train.exports.formats import FORMATS
from concord.train.flags import OneLineParser, check_numbers
from concord.train.settings.options import MOST


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder that another library loads; raises InputError for bad input."""
    given = _parser().parse(arguments)
    check_numbers(given, dev_examples=(0, MOST))
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.exports.exporting import export_run
    from concord.train.outputs.progress import ConsoleReporter

    export_run(
        Path(given.run),
        ConsoleReporter(),
        form=given.format,
        names=[name.strip() for name in given.task.split(",") if name.strip()],
        output=Path(given.output),
        eight_bit=given.int8,
        data=given.data,
        examples=given.dev_examples,
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m train.export", description="Export the best model of a run.")
    parser.add_argument("run", help="folder of the run")
    formats = "; ".join(f"{entry.name}: {entry.help}" for entry in FORMATS)
    parser.add_argument("--format", required=True, choices=FORMATS.names, help=formats)
    left_out = "; ".join(f"{entry.name}: {entry.without_task}" for entry in FORMATS)
    parser.add_argument("--task", default="", help=f"a task, of onnx also several with commas; left out, {left_out}")
    parser.add_argument("--output", required=True, help="folder to write, new or empty")
    parser.add_argument("--int8", action="store_true", help="weights as 8-bit integers (onnx)")
    parser.add_argument("--data", default="", help="where the dev sets are read (onnx; default the run's own)")
    parser.add_argument(
        "--dev-examples",
        type=int,
        default=1000,
        help="at most so many of each dev set are compared (onnx; default 1000, 0 for all)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
