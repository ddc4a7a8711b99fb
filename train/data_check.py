"""Look at data before training on them: python -m train.data_check DIR|FILE [--text-column a [b]] [--label-column l].

Prints one page: columns, labels and their shares, lengths in wordpieces, texts that stand more than once, in train and
dev both, or with different labels; everything that is missing in a tasks.toml; and the tasks.toml that it would guess.
"""

import sys
from collections.abc import Sequence

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import OF_COLUMNS, OneLineParser

_LEAST, _MOST = 8, 2**31 - 1  # wordpieces, as for a run


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page; 0, or 2 where something of the data cannot be read. InputError where nothing of it can."""
    given = _parser().parse(arguments)
    if not _LEAST <= given.max_length <= _MOST:
        raise InputError(f"--max-length {given.max_length}: expected from {_LEAST} to {_MOST}")
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.runs.data_page import print_page

    return print_page(**vars(given))


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m train.data_check", description="Look at data before training on them.")
    parser.add_argument("data", help="a file of rows, a tasks.toml, or a folder of data")
    parser.add_argument("--text-column", default=(), help="one or two columns, where a file is given", **OF_COLUMNS)
    parser.add_argument("--label-column", default="", help="the column of labels, where a file is given")
    parser.add_argument("--model", default="minilm", help="whose wordpieces are counted (default minilm)")
    parser.add_argument(
        "--max-length", type=int, default=512, help="wordpieces after which texts are cut (default 512)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
