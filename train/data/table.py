"""A table as columns and rows, whatever its form, and the forms that are text: delimited rows and JSON lines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from concord.bert.errors import InputError, did_you_mean, one_line, shown, visible
from concord.train.data.decoded import read_text, split_lines
from concord.train.data.delimited import DELIMITERS, plain_records, quoted_records, quotes_are_plain
from concord.train.settings.definitions import FILES, FORMS, is_table_name, shown_columns

_HINT = 'a key quoting = "none" or "standard", or delimiter = ..., in a tasks.toml changes how it is read'
_SAMPLE = 100  # rows by which columns are known


@dataclass(frozen=True)
class Reading:
    """How a delimited text is read.

    Attributes:
        delimiter: between columns; "" to guess.
        quoting: standard, or none where quotes are characters as others; "" to guess.
        header: whether the first row names the columns, which else have their numbers; None to guess.
        kept: whether another file was read so, so that this one's delimiter and quotes are guessed where its columns
            are not found by them.
    """

    delimiter: str = ""
    quoting: str = ""
    header: bool | None = None
    kept: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        line: where it is, from 1: a line of a text, or a row of another form.
        values: of the columns that were asked for, in their order; a value that a row lacks is None.
        problem: why it has no values, in a phrase; "" where it has.
    """

    line: int
    values: list[Any]
    problem: str = ""


class Table(Protocol):
    """Columns and rows of one set.

    Attributes:
        name: of the file, folder or data set, as messages show it.
        columns: their names; of a file without a header their numbers.
        declared: column -> the classes that it declares, in their order.
        notes: what was guessed, in a phrase each.
    """

    name: str
    columns: list[str]
    declared: Mapping[str, tuple[str, ...]]
    notes: list[str]

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Every row's values of `columns`, which are among the table's."""


@dataclass
class Delimited:
    """See `Table`: rows of a delimited text."""

    name: str
    columns: list[str]
    lines: list[str]
    delimiter: str
    plain: bool
    has_header: bool
    blank: bool
    notes: list[str]
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """See `Table`; a row with another number of columns than the header, or stray quotes, has a problem."""
        places = [self.columns.index(column) for column in columns]
        read = plain_records if self.plain else quoted_records
        records = read(self.lines, self.delimiter, blank=self.blank)
        if self.has_header:
            next(records)
        for record in records:
            cells = record.cells
            if len(cells) == len(self.columns):
                yield Row(record.line, [cells[place] for place in places])
            elif cells == [""] and self.blank:
                yield Row(record.line, [""] * len(places))
            elif not cells:
                yield Row(record.line, [], "a stray quote, expected quotes in pairs around a column")
            else:
                yield Row(record.line, [], f"{len(cells)} columns, expected {len(self.columns)}")


@dataclass
class JsonLines:
    """See `Table`: an object on each line, whose keys are the columns."""

    name: str
    columns: list[str]
    lines: list[str]
    notes: list[str] = field(default_factory=list)
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """See `Table`; a line that is no JSON object has a problem."""
        wanted = [column_key(column) for column in columns]
        for number, line in enumerate(self.lines, 1):
            if not line.strip():
                continue
            content, problem = _json_object(line)
            found = content
            if any(column not in content for column in columns):  # spelled otherwise in this line
                found = dict(zip(columns, [None] * len(columns), strict=True))
                keys = {column_key(key): key for key in content}
                found = {c: content.get(keys.get(key, c)) for c, key in zip(columns, wanted, strict=True)}
            yield Row(number, [] if problem else [found[column] for column in columns], problem)


def _json_object(line: str) -> tuple[dict[str, Any], str]:
    """What a line holds, and what is wrong with it."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON ({error}), expected an object on each line"
    if not isinstance(content, dict):
        return {}, f"a JSON {type(content).__name__}, expected an object"
    return content, ""


def column_key(name: str) -> str:
    """What two names of columns have in common that are the same but for case, white space, and signs of no width."""
    seen = "".join(sign for sign in name if not sign.isspace() and visible(sign) == sign)
    return seen.casefold()


def open_text(path: Path, wanted: Sequence[str], reading: Reading | None = None, *, answered: bool = False) -> Table:
    """The table in a .csv, .tsv or .jsonl, or one of these with .gz.

    wanted: columns that it should have, by which what `reading` leaves open is guessed. answered: whether every row has
    to have its place, blank ones too, and a name may end otherwise than `FORMS`. InputError where it cannot be read or
    has no first row.
    """
    reading = reading or Reading()
    if not answered and not is_table_name(path.name):
        raise InputError(f"{path}: a file of unknown form, expected {FORMS}")
    lines = split_lines(read_text(path, FILES if answered else FORMS))
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".jsonl":
        return JsonLines(str(path), _keys(path, lines), lines)
    if not lines[0].strip():
        raise InputError(f"{path}: starts with no header, expected the columns' names in its first line")
    notes = []
    usual = "\t" if suffix == ".tsv" else ","
    delimiter, quoting, has_header = reading.delimiter, reading.quoting, reading.header
    if reading.kept and delimiter and not _holds(lines, delimiter, wanted, has_header):
        delimiter = quoting = ""
    if not delimiter:
        delimiter = _guessed_delimiter(lines, wanted, usual, has_header)
        if delimiter != usual:
            notes.append(f"delimiter {delimiter!r} (guessed; key delimiter)")
    plain = quoting == "none"
    if not quoting and quotes_are_plain(lines, delimiter):
        plain = True
        notes.append('quotes are characters as others (guessed; key quoting = "standard" takes them as quotes)')
    read = plain_records if plain else quoted_records
    header = next(read(lines, delimiter)).cells
    if not header:
        raise InputError(f"{path}:1: a stray quote in the header ({_HINT})")
    if has_header is None:
        has_header = _is_header(header, wanted)
        if _are_numbers(wanted):
            first = "the first row has the columns' names" if has_header else "no header, columns are numbers"
            notes.append(f"{first} (guessed; key header)")
    columns = [name.strip() for name in header] if has_header else [str(place + 1) for place in range(len(header))]
    return Delimited(str(path), columns, lines, delimiter, plain, has_header, answered, notes)


def _are_numbers(wanted: Sequence[str]) -> bool:
    return bool(wanted) and all(column.isdecimal() for column in wanted)


def _is_header(cells: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a first row, whose columns are `wanted` by numbers, names them all the same.

    It does where all of the numbers stand in it: one of them alone may be a label or an id by chance, and is a name
    where no other cell is of several words, as texts are.
    """
    if not _are_numbers(wanted):
        return True
    if not set(wanted) <= {cell.strip() for cell in cells}:
        return False
    return len(set(wanted)) > 1 or not any(len(cell.split()) > 1 for cell in cells)


def _holds(lines: Sequence[str], delimiter: str, wanted: Sequence[str], has_header: bool | None) -> bool:
    """Whether the first row has the `wanted` columns if it is read with this delimiter."""
    cells = next(quoted_records(lines, delimiter)).cells
    if _is_header(cells, wanted) if has_header is None else has_header:
        return {column_key(column) for column in wanted} <= set(map(column_key, cells))
    return _are_numbers(wanted) and len(cells) >= max(map(int, wanted))


def _guessed_delimiter(lines: Sequence[str], wanted: Sequence[str], usual: str, has_header: bool | None) -> str:
    """Of the usual delimiters the one by which most of the `wanted` columns are in the header, or else most columns;
    where there is no header, the one by which most rows have as many columns as the first."""
    keys = {column_key(column) for column in wanted}

    def fits(delimiter: str) -> tuple[int, int, bool]:
        header = next(quoted_records(lines, delimiter)).cells
        return len(keys & set(map(column_key, header))), len(header), delimiter == usual

    def divides(delimiter: str) -> tuple[bool, int, int, bool]:
        sizes = [len(record.cells) for record in islice(quoted_records(lines, delimiter), _SAMPLE)]
        enough = sizes[0] >= max(2, *map(int, wanted))
        return enough, sizes.count(sizes[0]), sizes[0], delimiter == usual

    if not _are_numbers(wanted) or has_header:
        return max(DELIMITERS, key=fits)
    if has_header is None and (named := [sign for sign in DELIMITERS if _holds(lines, sign, wanted, True)]):
        return max(named, key=fits)
    return max(DELIMITERS, key=divides)


def _keys(path: Path, lines: Sequence[str]) -> list[str]:
    keys: dict[str, str] = {}
    for line in [line for line in lines if line.strip()][:_SAMPLE]:
        for key in _json_object(line)[0]:
            keys.setdefault(column_key(key), key)
    if not keys:
        problem = next((_json_object(line)[1] for line in lines if line.strip()), "") or "empty"
        raise InputError(f"{path}:1: {one_line(problem, 200)}, expected JSON objects, one a line, with the columns")
    return list(keys.values())


def find_columns(table: Table, wanted: Mapping[str, str], named_by: str) -> list[str]:
    """The table's own spelling of columns; wanted: as they are given -> what for, in words.

    InputError that names every one that is missing, or that two columns may be meant by.
    """
    found, missing, near = [], [], ""
    for name, purpose in wanted.items():
        same = [column for column in table.columns if column == name]
        same = same or [column for column in table.columns if column_key(column) == column_key(name)]
        if len(same) == 1:
            found.append(same[0])
            continue
        missing.append(f"{purpose} {shown(name)} is {f'{len(same)} columns' if same else 'no column'}")
        near = near or did_you_mean(name, table.columns).partition("; ")[2]
    if missing:
        near = f"; {near}" if near else ""
        columns = shown_columns(table.columns)
        raise InputError(f"{table.name}: {', '.join(missing)}, expected some of {columns}{near} ({named_by})")
    return found
