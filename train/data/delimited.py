"""Rows of delimited text: cells in quotes that hold delimiters and line ends, or quotes that are plain characters."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_TEXT = 1 << 20  # characters of a row, far beyond what any model reads of one
_MOST_LINES = 10_000  # of one row
DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        line: where it begins, from 1.
        cells: its values; empty where its quotes are stray.
    """

    line: int
    cells: list[str]


def csv_rows(lines: Iterable[str], delimiter: str = ",") -> Any:
    """A `csv.reader` that raises csv.Error where quotes are stray; cells may have any length, which the library bounds
    at 131,072 characters."""
    csv.field_size_limit(2**31 - 1)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def quoted_row(lines: Sequence[str], start: int, delimiter: str) -> tuple[list[str], int]:
    """The cells of the row that begins at `lines[start]`, and how many lines it takes; no cells and one line where its
    quotes are stray, so that the rows that follow are not lost with it."""
    if '"' not in lines[start]:
        return lines[start].split(delimiter), 1
    reader = csv_rows(_until_too_long(lines, start), delimiter)
    try:
        cells = next(reader)
    except csv.Error:
        return [], 1
    # The reader was given each line with its end, which stays in a quoted cell alone.
    return cells, reader.line_num


def _until_too_long(lines: Sequence[str], start: int) -> Iterator[str]:
    """Lines for a row: any number for one that ends within the first, and else as many as a row may have."""
    characters = 0
    for number in range(start, min(len(lines), start + _MOST_LINES)):
        characters += len(lines[number])
        if number > start and characters > LONGEST_TEXT:
            return
        yield lines[number] + "\n"


def quoted_records(lines: Sequence[str], delimiter: str, *, blank: bool = False) -> Iterator[Record]:
    """The rows of `lines` as spreadsheets write them; blank: whether empty lines are rows of one empty cell."""
    index = 0
    while index < len(lines):
        if not lines[index] and not blank:
            index += 1
            continue
        cells, count = quoted_row(lines, index, delimiter)
        yield Record(index + 1, cells)
        index += count


def plain_records(lines: Sequence[str], delimiter: str, *, blank: bool = False) -> Iterator[Record]:
    """The same where quotes are characters as others, and each line is a row."""
    for number, line in enumerate(lines, 1):
        if line or blank:
            yield Record(number, line.split(delimiter))


def quotes_are_plain(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the quotes in a file, whose first line is a row as the others, are plain characters.

    They are not where the first line, of names, has quotes. They are where fewer rows are bad in the plain reading; and
    in tab-delimited text, where none is bad in either, but rows by the standard reading span lines that each have as
    many columns as the first: a cell of several lines would leave pieces with fewer, since texts hold no tabs. (Commas
    they do hold, so that there the pieces may have as many by chance.)
    """
    if not any('"' in line for line in lines) or '"' in lines[0]:
        return False
    quoted = list(quoted_records(lines, delimiter))
    plain = list(plain_records(lines, delimiter))
    bad = [sum(len(row.cells) != len(rows[0].cells) for row in rows) for rows in (quoted, plain)]
    if not any(bad) and delimiter == "\t" and len(plain[0].cells) > 1:
        return len(quoted) < len(plain)
    return bad[1] < bad[0]
