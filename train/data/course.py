"""Reads data sets in the layout of the course: tab-delimited files with a header, one example a line."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from concord.bert.errors import InputError, one_line, shown
from concord.bert.files import exists, is_folder
from concord.train.data.decoded import read_text, split_lines
from concord.train.data.delimited import LONGEST_TEXT, quoted_row
from concord.train.data.labels import is_beyond, label_number, label_value
from concord.train.data.tasks import BUILT_IN_TASKS, Example, Task

_SHOWN = 5  # bad rows that a message names one by one
_LONGEST_SHOWN = 80  # characters of a header's cell
_LONGEST_PROBLEM = 160  # characters of what is wrong with a row


@dataclass(frozen=True)
class Split:
    """What one file holds.

    Attributes:
        examples: of its usable rows.
        bad_rows: one line for each row that cannot be used: where it is, and what is wrong with it.
        notes: what the run says of it, in a phrase each.
        held_out: where it is a dev set that is held out of the training set, the places of its rows; else None.
    """

    examples: list[Example] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    held_out: list[str] | None = None


def check_folder(directory: Path) -> None:
    """Raise InputError where the folder that --data names does not exist."""
    if not is_folder(directory):
        raise InputError(f"--data {directory}: no such folder, expected one in the course layout, or demo")


def read_split(task: Task, directory: Path, split: str, *, skip_bad_rows: bool) -> Split | None:
    """Read the train, dev or test split of a task.

    A test file has no labels; None where there is no test file. Sentences are stripped of spaces around them. A row is
    one line, even where a quote stays open. It is bad where it has a wrong number of columns, a stray quote, an empty
    sentence, no id, a label that is missing or not one of the task's, or more than `LONGEST_TEXT` characters.

    Raises InputError for a file that is missing, unreadable, has another header or no usable row, and for bad rows
    unless `skip_bad_rows`, naming the first few by file and line; and where the folder's tasks.toml has led out of it.
    """
    check_folder(directory)
    test = directory / f"{task.stem}-test-student.csv"
    if split == "test" and not exists(test):
        return None
    headers = [["", "id", *task.text_columns, task.label_column]]
    if split == "test":
        headers = [["", "id", *task.text_columns], ["0", "", "id", *task.text_columns]]
    path = test if split == "test" else directory / f"{task.stem}-{split}.csv"
    if task not in BUILT_IN_TASKS:
        check_within(directory, path)
    rows = _rows(path)
    header = _header(path, rows)
    if header not in headers:
        expected = " or ".join(_tabs(allowed) for allowed in headers)
        raise InputError(f"{path}:1: header is {_tabs(header)}{_one_column(header)}, expected {expected}")
    found = Split()
    labelled = split != "test"
    for line, cells in rows:
        try:
            found.examples.append(_example(task, path, line, header, cells, labelled))
        except _BadRow as problem:
            found.bad_rows.append(f"{path}:{line}: {one_line(str(problem), _LONGEST_PROBLEM)}")
    if found.bad_rows and not skip_bad_rows:
        raise InputError(f"{name_bad_rows(found.bad_rows, _SHOWN)} (--skip-bad-rows leaves such rows out)")
    if not found.examples:
        kind = {"train": "training", "dev": "dev", "test": "test"}[split]
        raise InputError(f"{path}: task {task.name} with no {kind} rows, expected at least one below the header")
    return found


def with_labels(task: Task, directory: Path) -> Task:
    """A task of a tasks.toml with the classes' names, where all labels of its training set are texts, as many different
    ones as it has classes: they are its classes in sorted order. Any other task as it is."""
    path = directory / f"{task.stem}-train.csv"
    if task in BUILT_IN_TASKS or task.kind == "regression" or task.labels or not path.is_file():
        return task
    check_within(directory, path)
    rows = _rows(path)
    header = next(rows, (1, []))[1]
    if task.label_column not in header:
        return task
    place = header.index(task.label_column)
    found = {_label_or_none(cells[place]) for _, cells in rows if len(cells) == len(header)} - {None}
    texts = sorted(label for label in found if isinstance(label, str))
    whole = len(texts) == len(found) == (2 if task.kind == "binary" else task.classes)
    return replace(task, labels=tuple(texts)) if whole else task


def _label_or_none(text: str) -> int | float | str | None:
    """A cell's label; None where it has none, or one that is none, or a number beyond all measure, which is named when
    its row is read."""
    try:
        return None if is_beyond(text.strip()) else label_value(text)
    except (ValueError, OverflowError):
        return None


def check_within(directory: Path, path: Path) -> None:
    """InputError where a file that a tasks.toml names lies outside of its folder, as a link may have it."""
    found, folder = path.resolve(), directory.resolve()
    if not found.is_relative_to(folder):
        raise InputError(f"{path}: it lies at {found}, expected a file within {folder}, whose tasks.toml names it")


def read_plain_input(task: Task, path: Path) -> list[Example]:
    """Read sentences to predict: a tab-delimited file whose header names at least the task's text columns.

    Further columns are ignored, but for `id`; without one, an example's id is its row's number, from 1. No row is left
    out, so that there is an answer for each in its place: a blank one, or one without a sentence, is an empty text.
    Raises InputError for a file or a row that cannot be used.
    """
    rows = _rows(path, blank=True)
    header = _header(path, rows)
    if any(header.count(column) != 1 for column in task.text_columns) or header.count("id") > 1:
        raise InputError(
            f"{path}:1: header is {_tabs(header)}{_one_column(header)}, expected task {task.name}'s columns "
            f"{_tabs(task.text_columns)}, each once"
        )
    examples = []
    for number, (line, cells) in enumerate(rows, 1):
        try:
            if cells == [""]:
                cells = [""] * len(header)
            examples.append(_example(task, path, line, header, cells, labelled=False, number=number))
        except _BadRow as problem:
            raise InputError(f"{path}:{line}: {problem}") from None
    if not examples:
        raise InputError(f"{path}: no rows, expected sentences to predict")
    return examples


class _BadRow(Exception):
    """Why a row cannot be used."""


def _header(path: Path, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    for line, cells in rows:
        if line == 1 and cells != [""]:
            return cells
        break
    raise InputError(f"{path}: starts with no header, expected a tab-delimited file with one in its first line")


def name_bad_rows(bad_rows: list[str], most: int) -> str:
    """How many rows are bad, and what is wrong with the first `most` of them; a file is named once."""
    named, earlier = [], ""
    for row in bad_rows[:most]:
        place = re.match(r"(.*?):(?=\d+: )", row)
        file = place[1] if place else ""
        named.append(f"line {row[place.end() :]}" if place and file == earlier else row)
        earlier = file
    more = len(bad_rows) - most
    count = "1 bad row" if len(bad_rows) == 1 else f"{len(bad_rows)} bad rows"
    return f"{count}: {'; '.join(named)}" + (f"; and {more} more" if more > 0 else "")


def _rows(path: Path, *, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each row that is not empty, or of each row if `blank`; no cells where its quotes are
    stray.

    A row is a line, or several where a quoted cell spans them and the row then has as many columns as the first. Lines
    are parsed one by one, so that a stray quote costs its own row and not those that follow.
    """
    lines = split_lines(read_text(path, "a tab-delimited file"))
    index = columns = 0
    while index < len(lines):
        cells, count = quoted_row(lines, index, "\t")
        columns = columns or len(cells)
        if count > 1 and len(cells) != columns:
            cells, count = [], 1
        if blank or lines[index]:
            yield index + 1, cells
        index += count


def _example(
    task: Task,
    path: Path,
    line: int,
    header: Sequence[str],
    cells: Sequence[str],
    labelled: bool,
    number: int | None = None,
) -> Example:
    """The example in a row. number: of a row that is to be answered whatever it lacks, from 1."""
    if sum(map(len, cells)) > LONGEST_TEXT:
        raise _BadRow(f"{sum(map(len, cells))} characters, expected {LONGEST_TEXT} at most")
    if not cells:
        raise _BadRow("a stray quote, expected quotes in pairs around a column")
    if len(cells) != len(header):
        raise _BadRow(f"{len(cells)} columns, expected {len(header)}")
    row = dict(zip(header, cells, strict=True))
    sentences = [row[column].strip() for column in task.text_columns]
    if number is None:
        if row.get("id") == "":
            raise _BadRow("id is empty, expected one")
        for column, sentence in zip(task.text_columns, sentences, strict=True):
            if not sentence:
                raise _BadRow(f"{column} is empty, expected a sentence")
    return Example(
        id=row.get("id", str(number)),
        first=sentences[0],
        second=sentences[1] if task.pair else None,
        label=_label(task, row[task.label_column]) if labelled else None,
        source=f"{path}:{line}",
    )


def _label(task: Task, text: str) -> float:
    if task.labels:
        try:
            return label_number(text, task.kind, task.labels, task.label_column, task.low, task.high)
        except ValueError as problem:
            raise _BadRow(str(problem)) from None
    whole = task.kind != "regression"
    try:
        label = float(text) if "_" not in text else math.nan  # Python would read 1_000 as a number
    except ValueError:
        label = math.nan
    # The comparison is false for NaN too.
    if not task.low <= label <= task.high or (whole and not label.is_integer()):
        kind = "a whole number" if whole else "a number"
        expected = f"{kind} from {task.low:g} to {task.high:g}"
        if whole and task not in BUILT_IN_TASKS:
            expected += ", or labels = [...] in tasks.toml"
        raise _BadRow(f"{task.label_column} is {shown(text)}, expected {expected}")
    return label


def _tabs(cells: Sequence[str]) -> str:
    """Cells as a message shows them."""
    cells = [one_line(cell, _LONGEST_SHOWN) for cell in cells]
    return "[" + ", ".join(cell or "(unnamed)" for cell in cells) + "]"


def _one_column(header: Sequence[str]) -> str:
    """A hint for headers of one column, as files have that are delimited by commas instead of tabs."""
    return " (one column, with no tab in it)" if len(header) == 1 else ""
