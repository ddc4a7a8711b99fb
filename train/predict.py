"""Predict with a run's best model: python -m train.predict RUN_DIR [--task T] --text TEXT, or --input FILE.

The input is a .csv, .tsv, .jsonl or .parquet whose columns are called as those that the task was trained on, and, if
there are ids, `id`; --text-column names others. Every row has its answer in its place; a blank one is an empty text.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.settings.config import AMP_CHOICES, DEVICES


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one prediction a row of the input; raises InputError for bad input."""
    given = _parser().parse(arguments)
    if bool(given.text) == bool(given.input):
        raise InputError("expected --text TEXT or --input FILE, and one of them alone")
    if given.text and given.text_column:
        raise InputError(f"--text-column {given.text_column}: of a file, expected --input FILE beside it")
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.named_output import is_standard_output
    from concord.train.outputs.progress import ConsoleReporter, OutputConsole
    from concord.train.runs.predicting import predict_texts

    output = Path(given.output)
    # Where the answers go to the standard output, nothing else does.
    reporter = ConsoleReporter(OutputConsole(stderr=is_standard_output(output)))
    predict_texts(
        Path(given.run),
        reporter,
        device=given.device,
        amp=given.amp,
        names=_listed(given.task),
        texts=given.text,
        source=Path(given.input),
        columns=_listed(given.text_column),
        output=output,
        scores=given.scores,
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m train.predict", description="Predict with the best model of a run.")
    parser.add_argument("run", help="folder of the run")
    parser.add_argument(
        "--task", default="", help="one of the run's tasks, or several with commas; if it has one, that"
    )
    parser.add_argument(
        "--text", action="append", nargs="+", default=[], help="a row: a text, or the two of a pair; may be repeated"
    )
    parser.add_argument(
        "--input", default="", help=".csv, .tsv, .jsonl or .parquet with a header, - for the standard input"
    )
    parser.add_argument("--text-column", default="", help="its column of texts, or two with a comma, if not the data's")
    parser.add_argument(
        "--output", default="-", help=".csv or .jsonl to write (default -, the standard output, as csv)"
    )
    parser.add_argument("--scores", action="store_true", help="write the score of each label too")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default auto")
    parser.add_argument("--amp", default="", choices=AMP_CHOICES, help="number format (default the run's own)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
