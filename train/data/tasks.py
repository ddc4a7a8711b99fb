"""The tasks that can be trained: the course's four, and those that a data directory defines in its tasks.toml."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from concord.bert.errors import InputError, did_you_mean, shown
from concord.bert.files import read_json
from concord.bert.pals import ProjectedAttention
from concord.train.data.labels import alike_labels
from concord.train.data.task_values import FARTHEST, Kind, lies_within, typed
from concord.train.settings import task_choices
from concord.train.settings.definitions import QUOTINGS, TASKS_FILE, choose_tasks, is_delimiter, is_table, read_toml
from concord.train.settings.task_choices import ClassWeights

_MOST_CLASSES = 1 << 16
_LONGEST_NAME = 64  # characters, so that the files that are named after a task have names that file systems take


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    Attributes:
        id: its name in prediction files.
        first: the sentence, or the first one of a pair.
        second: the second sentence of a pair, else None.
        label: class index or score, None where unlabelled.
        source: "file:line" of the row, for messages.
    """

    id: str
    first: str
    second: str | None
    label: float | None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task's data looks like and what its head answers.

    Attributes:
        name: one word, used in file names, parameter names and options, and no attribute of the modules that keep
            what belongs to each task under its name.
        kind: classification into `classes` classes, a binary decision from one logit, or a score from one logit.
        pair: whether an example is two sentences.
        classes: the number of logits; 1 for binary and regression.
        low: the smallest label.
        high: the largest label.
        stem: of the files f"{stem}-train.csv", f"{stem}-dev.csv" and f"{stem}-test-student.csv", in the data's folder
            or below it.
        text_columns: the header's names of the one or two sentences.
        label_column: the header's name of the label.
        prediction_column: the name of the answers in prediction files.
        labels: what the classes are called in the data, in their order; () where their numbers stand there.
        table: whether the data are a table of any form, and `stem` is of no file.
        metric: the name of what it is judged by, None for what its kind is.
        class_weights: what its examples' losses are multiplied by: `task_choices.BALANCED`, or label -> weight, 1 for
            the others; None for 1.
        delimiter: what other files of the table are read with too, see `train.data.table.Reading`; "" to guess.
        quoting: the same.
        header: the same; None to guess.
        id_column: that the rows of a table are called by, "" for one called id; no run depends on it.
    """

    name: str
    kind: Kind
    pair: bool
    classes: int
    low: float
    high: float
    stem: str
    text_columns: tuple[str, ...]
    label_column: str
    prediction_column: str
    labels: tuple[str, ...] = ()
    table: bool = False
    metric: str | None = None
    class_weights: ClassWeights | None = field(default=None, hash=False)
    delimiter: str = ""
    quoting: str = ""
    header: bool | None = None
    id_column: str = field(default="", compare=False)

    @property
    def label_names(self) -> tuple[str, ...]:
        """What its classes are called, in the order of their indices; none where its labels are numbers."""
        if self.labels:
            return self.labels
        return () if self.kind == "regression" else tuple(map(str, range(max(2, self.classes))))

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(f"task {self.name}: {problem}")

    def _problems(self) -> list[str]:
        """What contradicts itself, in one phrase each."""
        classification = self.kind == "classification"
        columns = ["id", *self.text_columns, self.label_column]
        sentences = 2 if self.pair else 1
        checks = {
            f"name is {shown(self.name)}, expected a letter, then letters, digits and underscores, "
            f"{_LONGEST_NAME} characters at most": (
                re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name) and len(self.name) <= _LONGEST_NAME
            ),
            f"name is {self.name!r}, which torch's modules use themselves, expected another": not (
                hasattr(nn.ModuleDict(), self.name) or hasattr(ProjectedAttention, self.name)
            ),
            f"text_columns has {len(self.text_columns)} names, expected {sentences} where pair is {self.pair}": (
                len(self.text_columns) == sentences
            ),
            f"the columns {', '.join(columns)} repeat a name, expected different ones": (
                len(set(columns)) == len(columns)
            ),
            f"classes is {self.classes}, expected "
            f"{f'from 2 to {_MOST_CLASSES}' if classification else f'1 for kind {self.kind}'}": (
                2 <= self.classes <= _MOST_CLASSES if classification else self.classes == 1
            ),
            f"low {self.low} and high {self.high} span no range of fp32 within {FARTHEST:g} of 0": (
                -FARTHEST <= self.low < self.high <= FARTHEST and np.float32(self.low) < np.float32(self.high)
            ),
            f"stem is {shown(self.stem)}, expected the beginning of a file's name in the folder of the data": (
                lies_within(self.stem)
            ),
        }
        checks[f"delimiter is {shown(self.delimiter)}, expected one character"] = not self.delimiter or is_delimiter(
            self.delimiter
        )
        checks[f"quoting is {shown(self.quoting)}, expected one of {', '.join(QUOTINGS)}"] = self.quoting in (
            "",
            *QUOTINGS,
        )
        for column in (self.stem, *self.text_columns, self.label_column, self.prediction_column, self.id_column):
            checks[f"{shown(column)} has control characters or half of a surrogate pair, expected a name without"] = (
                not {"Cc", "Cs"} & set(map(unicodedata.category, column))
            )
        if self.labels:
            count = {"classification": self.classes, "binary": 2}.get(self.kind, 0)
            checks[f"labels has {len(self.labels)} names, expected {count} different ones for kind {self.kind}"] = (
                len(set(self.labels)) == len(self.labels) == count
            )
            alike = alike_labels(self.labels)
            checks[f"labels has {shown(', '.join(alike))}, which are one label, expected one of them"] = not alike
        if self.kind != "regression":
            high = max(1, self.classes - 1)
            checks[f"low and high are {self.low} and {self.high}, expected 0 and {high} for kind {self.kind}"] = (
                self.low == 0 and self.high == high
            )
        problems = [problem for problem, holds in checks.items() if not holds]
        # The classes are named once it is known that they are not too many.
        return problems or task_choices.problems(self.kind, self.metric, self.class_weights, self.label_names)


_SENTENCE = ("sentence",)
_SENTENCES = ("sentence1", "sentence2")
BUILT_IN_TASKS = (
    Task(
        name="sst",
        kind="classification",
        pair=False,
        classes=5,
        low=0,
        high=4,
        stem="ids-sst",
        text_columns=_SENTENCE,
        label_column="sentiment",
        prediction_column="Predicted_Sentiment",
    ),
    Task(
        name="paraphrase",
        kind="binary",
        pair=True,
        classes=1,
        low=0,
        high=1,
        stem="quora",
        text_columns=_SENTENCES,
        label_column="is_duplicate",
        prediction_column="Predicted_Is_Duplicate",
    ),
    Task(
        name="sts",
        kind="regression",
        pair=True,
        classes=1,
        low=0,
        high=5,
        stem="sts",
        text_columns=_SENTENCES,
        label_column="similarity",
        # The course's own spelling, which its graders read.
        prediction_column="Predicted_Similiary",
    ),
    Task(
        name="cfimdb",
        kind="classification",
        pair=False,
        classes=2,
        low=0,
        high=1,
        stem="ids-cfimdb",
        text_columns=_SENTENCE,
        label_column="sentiment",
        prediction_column="Predicted_Sentiment",
    ),
)


def select_tasks(names: list[str], directory: Path | None) -> list[Task]:
    """The tasks called `names`, in that order, among the built-in ones and those of `directory`'s tasks.toml.

    Raises InputError for an unknown name, a name given twice, no name at all, and a wrong tasks.toml.
    """
    return choose_tasks(names, known_tasks(None if directory is None else directory / TASKS_FILE))


def known_tasks(path: Path | None, only: str | None = None) -> dict[str, Task]:
    """The built-in tasks, and those in the course's layout that the tasks.toml at `path` defines, where there is one:
    all, or the one called `only`. InputError for a wrong one."""
    known = {task.name: task for task in BUILT_IN_TASKS}
    return known | (_read_tasks(path, only) if path is not None and path.exists() else {})


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Write the definitions of a run's tasks as JSON, so that its model answers without the data it was trained on."""
    path.write_text(json.dumps([_written(task) for task in tasks], indent=2) + "\n", encoding="utf-8")


def _written(task: Task) -> dict[str, Any]:
    """A task's values, but for those that only some tasks have."""
    return {name: value for name, value in asdict(task).items() if name not in _OPTIONAL or value != _OPTIONAL[name]}


def read_tasks(path: Path) -> list[Task]:
    """The tasks that `write_tasks` wrote; InputError where the file is missing or damaged."""
    content = read_json(path, "the tasks of a run")
    if not (isinstance(content, list) and content and all(isinstance(table, dict) for table in content)):
        raise InputError(f"{path}: not the tasks of a run, expected a list of them")
    try:
        return [_task(str(table.pop("name", "")), table) for table in content]
    except InputError as error:
        raise InputError(f"{path}: not the tasks of a run ({error})") from None


def _read_tasks(path: Path, only: str | None) -> dict[str, Task]:
    """The tasks in the course's layout of a tasks.toml: one table for each, named as the task."""
    tasks = {}
    for name, table in read_toml(path).items():
        if is_table(table) or only not in (None, name):
            continue
        try:
            tasks[name] = _task(name, table, [key for key in _TYPES if key not in _OF_TABLES])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return tasks


_TYPES = {field.name: field.type for field in fields(Task) if field.name != "name"}
_OF_TABLES = ("table", "delimiter", "quoting", "header", "id_column")
_OPTIONAL = {field.name: field.default for field in fields(Task) if field.default is not MISSING}


def _task(name: str, table: Mapping[str, Any], keys: Sequence[str] = tuple(_TYPES)) -> Task:
    """One task from its table; what follows from the kind, the columns and the labels may be left out."""
    for key in table:
        if key not in keys:
            # In a tasks.toml the key `train` would make it a table of any form.
            known = keys if "table" in keys else [*keys, "train"]
            raise InputError(f"task {name}: unknown key {shown(key)}, {did_you_mean(key, known)}")
    values = {key: typed(name, key, value, _TYPES[key]) for key, value in table.items()}
    kind = values.get("kind")
    values.setdefault("pair", len(values.get("text_columns", ())) > 1)
    if kind != "classification":
        values.setdefault("classes", 1)
    elif values.get("labels"):
        values.setdefault("classes", len(values["labels"]))
    if kind != "regression":
        values = {"low": 0.0, "high": max(1.0, values.get("classes", 2) - 1.0)} | values
    missing = [key for key in _TYPES if key not in values and key not in _OPTIONAL]
    if missing:
        other = "; or train = FILE, for a table of any form" if "stem" in missing else ""
        raise InputError(f"task {name}: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing{other}")
    return Task(name=name, **values)
