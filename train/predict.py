"""Predict with a run's best model: python -m train.predict RUN_DIR --task sst --input FILE --output FILE.

The input is tab-delimited, or for a task of a table any file that it could be trained on, with a header that names the
task's sentence columns and, if there are ids, `id`. Every row has its answer in its place; a blank one is an empty
text.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.train.command import run_command
from concord.train.flags import OneLineParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one prediction a row of the input; raises InputError for bad input."""
    given = _parser().parse(arguments)
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.named_output import is_standard_output
    from concord.train.outputs.progress import ConsoleReporter, OutputConsole
    from concord.train.runs.answering import predict_file

    output = Path(given.output)
    # Where the answers go to the standard output, nothing else does.
    reporter = ConsoleReporter(OutputConsole(stderr=is_standard_output(output)))
    predict_file(
        Path(given.run),
        reporter,
        device=given.device,
        task=given.task,
        source=Path(given.input),
        output=output,
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m train.predict", description="Predict with the best model of a run.")
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--task", required=True, help="one of the run's tasks")
    parser.add_argument("--input", required=True, help="file with the task's sentences, such as it was trained on")
    parser.add_argument("--output", required=True, help="CSV file to write")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
