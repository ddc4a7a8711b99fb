"""Where examples come from: the generated demo data, files that a folder or a tasks.toml names, or the user's function.

A source is made of what --data says, and is a line in `concord.train.settings.tables`. A function of the user's own is
(task, split) -> its examples, or None where a test set is missing; split: train, dev or test.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from concord.bert.errors import InputError
from concord.bert.tables import find_own
from concord.train.data.course import Split, check_folder, read_split, with_labels
from concord.train.data.demo_sets import DEMO_TASKS, demo_examples
from concord.train.data.tables import TableTask
from concord.train.data.tasks import BUILT_IN_TASKS, Example, Task, known_tasks, select_tasks
from concord.train.settings.definitions import TASKS_FILE, TableSpec, choose_tasks, is_tasks_file, read_specs
from concord.train.settings.own import calling, own_names
from concord.train.settings.parts import TextConfig
from concord.train.settings.tables import DEMO, SOURCES

FOLDER = "course"


class Source(Protocol):
    """Gives tasks and their examples."""

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """The tasks called `names`, in that order; InputError for one that the source does not have."""

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split | None:
        """The examples of a split, train, dev or test; None where there is no test set. InputError for bad data."""


def open_source(data: str, table: TableSpec | None = None) -> Source:
    """The source that --data names, or the one table that other flags do."""
    if table is not None:
        return FileSource(Path(data).parent, tables={table.name: table})
    if data == DEMO:
        return SOURCES.resolve(DEMO)(data)
    if own_names({"data": data}, ("data",)):
        return OwnSource(data)
    if is_tasks_file(Path(data)):
        # The user names the file itself, and with it whatever it names.
        return FileSource(Path(data).parent, tasks_file=Path(data))
    return SOURCES.resolve(FOLDER)(data)


def data_files(config: TextConfig) -> list[Path]:
    """The files that a run's data are read from; none where they are no files, or can no longer be found."""
    try:
        source = open_source(config.source, config.table)
        return source.files(config.tasks) if isinstance(source, FileSource) else []
    except InputError:
        return []


class DemoSource:
    """The generated demo data."""

    def __init__(self, data: str) -> None:
        """`data` is not read: there is one demo data set."""

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """See `Source`."""
        tasks = select_tasks(list(names), None)
        for task in tasks:
            if task.name not in DEMO_TASKS:
                raise InputError(f"--tasks {task.name}: the demo data has {', '.join(DEMO_TASKS)}; give --data DIR")
        return tasks

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split:
        """See `Source`; no row is bad."""
        return Split(demo_examples(task.name, split))


class FileSource:
    """Files: in the course layout, and tables of any form that a tasks.toml names.

    Args:
        directory: of files in the course layout.
        tasks_file: the tasks.toml, where the user names it; None for the one in the directory, if there is one, which
            may name nothing outside.
        tables: the only tables, where they are known already.
        course: the only tasks in the course layout, where `tables` are.
    """

    def __init__(
        self,
        directory: Path,
        tasks_file: Path | None = None,
        tables: Mapping[str, TableSpec] | None = None,
        course: Sequence[Task] = (),
    ) -> None:
        self._directory, self._confined = directory, tasks_file is None
        self._file = tasks_file or directory / TASKS_FILE
        self._specs = dict(tables) if tables is not None else None
        self._known: dict[str, Task | TableSpec] = {
            **{task.name: task for task in course},
            **(self._specs or {}),
        }
        self._tables: dict[str, TableTask] = {}

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """See `Source`; those that the tasks.toml defines are among them."""
        self._read_definitions()
        where = self._file.name if self._confined else str(self._file)
        chosen = choose_tasks(list(names), self._known, where)
        if not self._specs and not self._file.exists() and not self._has_course_files():
            raise InputError(
                f"--data {self._directory}: neither a {TASKS_FILE} nor files in the course's layout, such as "
                f"{BUILT_IN_TASKS[0].stem}-train.csv, in it; expected --train-file FILE for one table; python -m "
                f"train.data_check {self._directory} shows what a {TASKS_FILE} may say"
            )
        return [
            self._table(one).task() if isinstance(one, TableSpec) else with_labels(one, self._directory)
            for one in chosen
        ]

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split | None:
        """See `Source`."""
        if not task.table:
            return read_split(task, self._directory, split, skip_bad_rows=skip_bad_rows)
        self._read_definitions()
        spec = self._known.get(task.name)
        if not isinstance(spec, TableSpec):
            raise InputError(f"{self._file}: task {task.name} is of a table, expected [{task.name}] with train = FILE")
        return self._table(spec).read(task, split, skip_bad_rows=skip_bad_rows)

    def files(self, names: Sequence[str]) -> list[Path]:
        """The files that the tasks called `names` are read from."""
        self._read_definitions()
        specs = [one for name, one in self._known.items() if name in names and isinstance(one, TableSpec)]
        return [self._file, *self._directory.glob("*.csv"), *(file for one in specs for file in TableTask(one).files())]

    def names(self) -> list[str]:
        """The tasks that there are."""
        self._read_definitions()
        return list(self._known)

    def specs(self) -> dict[str, TableSpec]:
        """What is said of the tasks whose data are tables."""
        self._read_definitions()
        return dict(self._specs or {})

    def columns(self, task: Task) -> list[str]:
        """The columns of a task's training table; none of a task in the course layout, whose columns are known."""
        spec = self._known.get(task.name)
        table = self._table(spec).table("train") if isinstance(spec, TableSpec) else None
        return table.columns if table is not None else []

    def _has_course_files(self) -> bool:
        return any(next(self._directory.glob(f"{task.stem}-*"), None) for task in BUILT_IN_TASKS)

    def _table(self, spec: TableSpec) -> TableTask:
        return self._tables.setdefault(spec.name, TableTask(spec))

    def _read_definitions(self) -> None:
        if self._specs is not None:
            return
        # First of all: in a folder that is missing, a task that it should define would be reported as unknown.
        check_folder(self._directory)
        exists = self._file.exists() or not self._confined
        self._specs = read_specs(self._file, confined=self._confined) if exists else {}
        self._known = {**known_tasks(self._file if exists else None), **self._specs}


class CourseSource(FileSource):
    """The folder that --data names."""

    def __init__(self, data: str) -> None:
        super().__init__(Path(data))


class OwnSource:
    """A function of the user's own, whose examples are checked; the tasks are the built-in ones."""

    def __init__(self, data: str) -> None:
        self._name, self._function = data, find_own(data)

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """See `Source`."""
        return select_tasks(list(names), None)

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split | None:
        """See `Source`; a bad example stops the run, or is left out, as a bad row of a file."""
        with calling(self._name):
            found = self._function(task, split)
            if found is None and split == "test":
                return None
            found = list(found)
        result = Split()
        for number, example in enumerate(found):
            problem = _problem(task, example, labelled=split != "test")
            if not problem:
                result.examples.append(example)
                continue
            line = f"{self._name}: example {number} of {task.name} {split}: {problem}"
            if not skip_bad_rows:
                raise InputError(f"{line} (--skip-bad-rows leaves such ones out)")
            result.bad_rows.append(line)
        if not result.examples:
            raise InputError(f"{self._name}: no usable examples of {task.name} {split}, expected at least one")
        return result


def _problem(task: Task, example: Any, *, labelled: bool) -> str:
    """What is wrong with an example, in a phrase; empty where nothing is."""
    if not isinstance(example, Example):
        return f"it is a {type(example).__name__}, expected a concord.train.data.tasks.Example"
    if not (isinstance(example.id, str) and example.id):
        return f"its id is {example.id!r}, expected a text"
    texts = [example.first, example.second] if task.pair else [example.first]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return f"expected {'two sentences' if task.pair else 'a sentence'}"
    if not task.pair and example.second is not None:
        return "it has a second sentence, expected one"
    try:
        "".join([example.id, *texts]).encode("utf-8")
    except UnicodeEncodeError:
        return "its id or a sentence has half of a surrogate pair, expected whole characters"
    if labelled:
        label = example.label
        number = isinstance(label, Real) and math.isfinite(label) and task.low <= label <= task.high
        if not number or (task.kind != "regression" and label != int(label)):
            kind = "a number" if task.kind == "regression" else "a whole number"
            return f"its label is {label!r}, expected {kind} from {task.low:g} to {task.high:g}"
    return ""
