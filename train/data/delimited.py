"""Rows of delimited text: cells in quotes that hold delimiters and line ends, or quotes that are plain characters."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def quoted_row(lines: Sequence[str], start: int, delimiter: str) -> tuple[list[str], int]:
    """The cells of the row that begins at `lines[start]`, and how many lines it takes; no cells and one line where its
    quotes are stray, so that the rows that follow are not lost with it."""
    if '"' not in lines[start]:
        return lines[start].split(delimiter), 1
    csv.field_size_limit(2**31 - 1)  # long texts are allowed
    reader = csv.reader(_until_too_long(lines, start), delimiter=delimiter, strict=True)
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

    They are not where the first line, of names, has quotes. They are where every line has as many columns as the first,
    but rows by the standard reading are bad or span lines: a cell of several lines leaves pieces with fewer columns.
    Where neither reading is perfect, they are where the plain one has fewer bad rows.
    """
    if not any('"' in line for line in lines) or '"' in lines[0]:
        return False
    quoted = list(quoted_records(lines, delimiter))
    plain = list(plain_records(lines, delimiter))
    bad = [sum(len(row.cells) != len(rows[0].cells) for row in rows) for rows in (quoted, plain)]
    if bad[1] == 0:
        return bad[0] > 0 or len(quoted) < len(plain)
    return bad[1] < bad[0]
