"""Export a run's best model: python -m train.export RUN_DIR --format FORMAT [--task T] --output DIR.

transformers takes one task; sentence-transformers the embeddings, or one task of pairs; onnx all tasks, or those named.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.exports.formats import FORMATS
from concord.train.flags import OneLineParser, check_numbers
from concord.train.settings.options import MOST, flag_of

_EXAMPLES = 1000  # of each dev set that are compared


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder that another library loads; raises InputError for bad input."""
    given = _parser().parse(arguments)
    check_numbers(given, dev_examples=(0, MOST))
    for name in ("data", "dev_examples"):
        if getattr(given, name) not in (None, "") and not FORMATS.entry(given.format).compares:
            compares = " or ".join(f"--format {entry.name}" for entry in FORMATS if entry.compares)
            raise InputError(f"{flag_of(name)}: --format {given.format} reads no dev sets, expected {compares}")
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
        examples=_EXAMPLES if given.dev_examples is None else given.dev_examples,
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
        help=f"at most so many of each dev set are compared (onnx; default {_EXAMPLES}, 0 for all)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
