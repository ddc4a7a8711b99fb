"""The examples of a task whose data are tables of any form: columns found, labels inferred, a dev set held out."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, one_line, shown
from concord.bert.files import exists, is_folder
from concord.train.data.cells import as_name, as_text, id_column_of
from concord.train.data.course import Split, check_within, name_bad_rows
from concord.train.data.guesses import guess_label, guess_texts
from concord.train.data.idle_keys import idle_keys
from concord.train.data.labels import describe_labels, infer_labels, label_number, label_value, spelled_label
from concord.train.data.splits import evenly_spaced, held_out
from concord.train.data.table import Delimited, Reading, Table, column_key, find_columns, open_text
from concord.train.data.tasks import Example, Task
from concord.train.reporter import SILENT, Reporter
from concord.train.settings.definitions import FORMS, HELD_OUT, TableSpec, is_saved_folder, is_table_name, shown_columns

_SHOWN = 5  # bad rows that a message names one by one
_SUGGESTED = 20  # bad rows that are told what label may be meant, as many as a warning names
_LONGEST_PROBLEM = 300  # characters of what is wrong with a row
_PREDICTION = "prediction"  # the column of answers in prediction files
_OWN_KEYS = {"train": "train", "dev": "validation", "test": "test"}
_HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?"


class TableTask:
    """One task's tables.

    Args:
        spec: what is said of them.
    """

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._tables: dict[str, dict[str, Table]] = {}
        self._columns: tuple[list[str], str] | None = None
        self._train: Split | None = None
        self._header = spec.header  # of the training set, once it has been read

    def columns(self, table: Table, *, labelled: bool = True) -> tuple[list[str], str]:
        """The text columns and the label column of a table, in its own spelling; InputError where they are missing, or
        cannot be guessed."""
        spec, named_by = self._spec, self._spec.named_by
        label = spec.label_column or (guess_label(table) if labelled else "")
        texts = spec.text_columns or guess_texts(table, [one for one in (label, spec.id_column) if one])
        flags = named_by.startswith("--")
        missing = [] if texts else ["--text-column" if flags else "text_columns"]
        missing += [] if label or not labelled else ["--label-column" if flags else "label_column"]
        if missing:
            which = " and ".join(missing)
            verb = "are" if len(missing) > 1 else "is"
            unnamed = "" if all(map(str.strip, table.columns)) else "; a column without a name needs one"
            raise InputError(
                f"{table.name}: {which} {verb} missing and not obvious, expected some of "
                f"{shown_columns(table.columns)}{unnamed} ({named_by})"
            )
        wanted = dict.fromkeys(texts, "text column")
        wanted |= {label: "label column"} if labelled else {}
        wanted |= {spec.id_column: "id column"} if spec.id_column else {}
        if len(wanted) < len(texts) + labelled + bool(spec.id_column):
            twice = shown_columns([*texts, label])
            raise InputError(f"{named_by}: {twice} name a column twice, expected different ones")
        found = find_columns(table, wanted, named_by)
        return found[: len(texts)], found[len(texts)] if labelled else ""

    def task(self) -> Task:
        """The task, whose labels are inferred from the training set; InputError where it cannot be read."""
        spec, table = self._spec, self._table("train")
        reading = self._reading_of(table)
        self._header = reading.header
        texts, label = self.columns(table)
        counts: Counter = Counter()
        spelled: dict[Any, str] = {}  # as the first row that has it
        strange = ""  # the first that is no label
        for row in table.rows([label]):
            if not row.problem:
                try:
                    value = label_value(row.values[0])
                except (ValueError, OverflowError):  # named when its row is read
                    strange = strange or f"{row.line}: {label} is {shown(row.values[0])}, expected a text or a number"
                    continue
                counts[value] += 1
                if value not in spelled:
                    spelled[value] = spelled_label(row.values[0])
        counts.pop(None, None)
        place = f"{table.name}: {label}"
        if not counts:
            raise InputError(f"{table.name}:{strange}" if strange else f"{place}: no labels, expected one in each row")
        found = infer_labels(counts, table.declared.get(label, ()), spec, place, spelled)
        try:
            return Task(
                name=spec.name,
                kind=found.kind,
                pair=len(texts) == 2,
                classes=len(found.names) if found.kind == "classification" else 1,
                low=found.low,
                high=found.high,
                stem=spec.name,
                text_columns=tuple(texts),
                label_column=label,
                prediction_column=_PREDICTION,
                labels=found.names,
                table=True,
                metric=spec.metric,
                class_weights=spec.class_weights,
                delimiter=reading.delimiter,
                quoting=reading.quoting,
                header=reading.header,
                id_column=spec.id_column,
            )
        except InputError as error:  # what a tasks.toml says does not fit the labels, say
            raise InputError(f"{spec.named_by.removesuffix(f': task {spec.name}')}: {error}") from None

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split | None:
        """See `train.data.sources.Source`; a dev set that nobody names is held out of the training set."""
        if self._header is None:
            self._header = task.header
        separate = self._has("dev")
        if split == "test":
            return self._rows(task, "test", skip_bad_rows) if self._has("test") else None
        if split == "dev" and separate:
            return self._rows(task, "dev", skip_bad_rows)
        first = self._train is None
        whole = self._train or self._rows(task, "train", skip_bad_rows)
        self._train = whole
        if split == "train":
            bad_rows, chosen, notes = whole.bad_rows, whole.examples, list(whole.notes)
            out = [False] * len(chosen) if separate else self._held_out(task, whole)
            chosen = [example for example, held in zip(chosen, out, strict=True) if not held]
            notes += idle_keys(self._spec, task)
            if self._spec.limit and self._spec.limit < len(chosen):
                said = f"{self._spec.limit} of {len(chosen)} training rows, evenly spaced (key limit)"
                chosen = evenly_spaced(chosen, self._spec.limit)
                gone = set(range(len(task.labels))) - {int(one.label or 0) for one in chosen}
                names = one_line(", ".join(task.labels[number] for number in sorted(gone)), 100)
                notes.append(f"{said}; none is left of {names}" if gone else said)
            return Split(chosen, bad_rows, [self._said(task, chosen), *notes])
        out = self._held_out(task, whole)
        chosen = [example for example, held in zip(whole.examples, out, strict=True) if held]
        note = f"dev: {len(chosen)} of {len(out)} training rows held out (keys validation, validation_split)"
        return Split(chosen, whole.bad_rows if first else [], [note], [example.source for example in chosen])

    def files(self) -> list[Path]:
        """Every file that may be read for the task."""
        names = [self._spec.train, self._spec.validation, self._spec.test]
        paths = [self._spec.folder / name for name in names if name]
        return [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]

    def table(self, split: str) -> Table | None:
        """The table of a split, train, dev or test; None where there is none. InputError where it cannot be read."""
        return self._table(split) if self._has(split) else None

    def _reading_of(self, table: Table) -> Reading:
        """How other files of the task are to be read, so that they are as the training set is: with the delimiter and
        the quoting that the user names, or without a header."""
        if not isinstance(table, Delimited):
            return Reading(header=self._spec.header)
        named = self._spec.delimiter or self._spec.quoting or not table.has_header
        return Reading(table.delimiter if named else "", self._spec.quoting, table.has_header)

    def _held_out(self, task: Task, whole: Split) -> list[bool]:
        place = f"{self._table('train').name}: {task.label_column} ({self._spec.named_by}: validation)"
        share = HELD_OUT if self._spec.validation_split is None else self._spec.validation_split
        return held_out(whole.examples, share, classes=task.kind != "regression", place=place)

    def _said(self, task: Task, examples: list[Example]) -> str:
        found = describe_labels(task.kind, task.labels, [one.label for one in examples], task.low, task.high)
        changed = "kind, low, high" if task.kind == "regression" else "kind, labels"
        texts = ", ".join(one_line(column, 30) for column in task.text_columns)
        columns = f"; texts {texts}, label {one_line(task.label_column, 30)}"
        return f"{found}{columns} (keys {changed}, text_columns, label_column)"

    def _name(self, split: str) -> str:
        return getattr(self._spec, _OWN_KEYS[split])

    def _has(self, split: str) -> bool:
        """Whether there is a table of a split: one that is named, or one beside the training set."""
        if self._name(split):
            return True
        held = split != "dev" or self._spec.validation_split is None
        return bool(self._spec.train) and held and split in self._opened(self._spec.train, "train")

    def _table(self, split: str) -> Table:
        name = self._name(split) or self._spec.train
        tables = self._opened(name, split)
        # A data set that is named for a split has it under the split's own name, or is one set.
        found = tables.get(split) or (tables["train"] if self._name(split) and len(tables) == 1 else None)
        if found is None:
            raise InputError(f"{name}: it has no {split} split ({self._spec.named_by})")
        return found

    def _opened(self, name: str, split: str) -> dict[str, Table]:
        if name not in self._tables:
            self._tables[name] = self._open(name, labelled=split != "test")
        return self._tables[name]

    def _open(self, name: str, *, labelled: bool) -> dict[str, Table]:
        """The tables that a name stands for: split -> table; a file's is one, called train."""
        spec = self._spec
        path = spec.folder / name
        if spec.confined and (exists(path) or is_table_name(name)):
            check_within(spec.folder, path)
        if not exists(path) and not is_table_name(name):
            if re.fullmatch(_HUB_NAME, name) is None:
                raise InputError(f"{path}: no such file or folder, expected {FORMS} ({spec.named_by})")
            if spec.confined:
                raise InputError(
                    f"{path}: no such file; a data set of the hub is read where --data names the tasks.toml itself"
                )
            from concord.train.data.arrow import open_hub

            return dict(open_hub(name))
        if is_folder(path):
            if not is_saved_folder(path):
                raise InputError(f"{path}: a folder that `datasets` has not saved, expected {FORMS} ({spec.named_by})")
            from concord.train.data.arrow import open_saved

            return dict(open_saved(path))
        if path.suffix.lower() == ".parquet":
            from concord.train.data.arrow import open_parquet

            return {"train": open_parquet(path)}
        wanted = [*spec.text_columns, *([spec.label_column] if labelled else []), spec.id_column]
        reading = Reading(spec.delimiter, spec.quoting, self._header, spec.kept)
        return {"train": open_text(path, [column for column in wanted if column], reading)}

    def _rows(self, task: Task, split: str, skip_bad_rows: bool) -> Split:
        """The examples of a split's table; InputError for bad rows unless they are to be skipped, and for none."""
        table, labelled = self._table(split), split != "test"
        spec = replace(self._spec, text_columns=task.text_columns, label_column=task.label_column)
        texts, label = TableTask(spec).columns(table, labelled=labelled)
        name, asked = id_column_of(table.columns), bool(spec.id_column)
        if asked:
            (name,) = find_columns(table, {spec.id_column: "id column"}, spec.named_by)
        id_column = name if name not in (*texts, label) else ""
        wanted = [*texts, *([label] if labelled else []), *([id_column] if id_column else [])]
        bounds = (task.low, task.high) if split == "train" else (float("-inf"), float("inf"))
        found = Split(notes=[f"{split}: {note}" for note in table.notes])
        for number, row in enumerate(table.rows(wanted), 1):
            try:
                if row.problem:
                    raise ValueError(row.problem)
                values = row.values
                sentences = [as_text(column, value) for column, value in zip(texts, values, strict=False)]
                target = None
                if labelled:
                    near = len(found.bad_rows) < (_SUGGESTED if skip_bad_rows else _SHOWN)
                    target = label_number(values[len(texts)], task.kind, task.labels, label, *bounds, suggest=near)
                identity = as_name(id_column, values[-1], number, asked=asked) if id_column else str(number)
            except (ValueError, OverflowError) as problem:
                found.bad_rows.append(f"{table.name}:{row.line}: {one_line(str(problem), _LONGEST_PROBLEM)}")
                continue
            second = sentences[1] if task.pair else None
            found.examples.append(Example(identity, sentences[0], second, target, f"{table.name}:{row.line}"))
        if found.bad_rows and not skip_bad_rows:
            raise InputError(f"{name_bad_rows(found.bad_rows, _SHOWN)} (--skip-bad-rows leaves such rows out)")
        if not found.examples:
            raise InputError(f"{table.name}: task {task.name} with no {split} rows, expected one at least")
        return found


def read_plain_table(task: Task, path: Path, reporter: Reporter = SILENT) -> list[Example]:
    """Texts to predict for a task of a table, from a file of any form; each row has its answer, blank ones too. A
    delimited text is read as the training set was, as far as its columns are found so, and the reporter is told what
    was guessed. Rows are called by the id column that was named for the training set, where it is there.

    InputError for a file or a row that cannot be used, or without the task's text columns.
    """
    if path.suffix.lower() == ".parquet":
        from concord.train.data.arrow import open_parquet

        table: Table = open_parquet(path)
    else:
        reading = Reading(task.delimiter, task.quoting, task.header, kept=True)
        table = open_text(path, task.text_columns, reading, answered=True)
    for note in table.notes:
        reporter.say(f"{task.name:<10} {note}")
    wanted = dict.fromkeys(task.text_columns, "text column")
    texts = find_columns(table, wanted, f"the columns of task {task.name}")
    known = {column_key(column): column for column in table.columns}
    named = known.get(column_key(task.id_column)) if task.id_column else ""
    id_column = named or id_column_of(table.columns)
    examples = []
    for number, row in enumerate(table.rows([*texts, *([id_column] if id_column else [])]), 1):
        try:
            if row.problem:
                raise ValueError(row.problem)
            found = [as_text(name, value, empty=True) for name, value in zip(texts, row.values, strict=False)]
            identity = as_name(id_column, row.values[-1], number, asked=False) if id_column else str(number)
        except ValueError as problem:
            raise InputError(f"{path}:{row.line}: {problem}") from None
        examples.append(Example(identity, found[0], found[1] if task.pair else None, None, f"{path}:{row.line}"))
    if not examples:
        raise InputError(f"{path}: no rows, expected sentences to predict")
    return examples
