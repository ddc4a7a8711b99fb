"""Judge every kernel on this machine: python -m train.doctor [--model minilm|bert-base|bert-large|DIR] [--amp] ...

Prints the device, its driver and the versions, then a line an op: the verdict, the error against a reference in higher
precision, the time, and its share of what the device can copy or multiply. It is what a bug report needs.
"""

import sys
from collections.abc import Sequence

from concord.bert.config import SIZES
from concord.kernels.ops import OPS
from concord.train.command import run_command
from concord.train.flags import OneLineParser, check_numbers
from concord.train.settings.config import AMP_CHOICES, DEVICES
from concord.train.settings.options import MOST

_BOUNDS = {"tasks": (1, 1024), "longest": (1, MOST), "seconds": (0.001, 1e6), "jobs": (1, 1024)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0, or 1 where an op has failed. InputError for bad flags, and where nothing can be judged."""
    given = _parser().parse(arguments)
    check_numbers(given, **_BOUNDS)
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.runs.checkup import check_up

    return check_up(**vars(given))


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m train.doctor", description="Judge every kernel on this machine.")
    parser.add_argument(
        "--model", default="minilm", help=f"{', '.join(SIZES)}, or a folder with a config.json (default minilm)"
    )
    parser.add_argument("--tasks", type=int, default=3, help="tasks with a gradient of their own (default 3)")
    parser.add_argument("--longest", type=int, default=512, help="tokens of the longest sequence (default 512)")
    parser.add_argument(
        "--amp",
        nargs="?",
        const="auto",
        choices=AMP_CHOICES,
        help="number format (default: what --amp takes on a GPU, fp32 in the interpreter)",
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default auto")
    parser.add_argument("--ops", nargs="+", choices=list(OPS), help="judge these alone (default all)")
    parser.add_argument("--cases", action="store_true", help="a line for each case too, as it is judged")
    parser.add_argument("--seconds", type=float, help="that a case may take, compiling included (default 240)")
    parser.add_argument("--jobs", type=int, help="ops judged at once (default what the cores allow)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
