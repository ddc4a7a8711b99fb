"""Where examples come from: the generated demo data, a folder in the course layout, or a function of the user's own.

A source is made of what --data says, and is a line in `concord.train.settings.tables`. A function of the user's own is
(task, split) -> its examples, or None where a test set is missing; split: train, dev or test.
"""

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from concord.bert.errors import InputError
from concord.bert.tables import find_own
from concord.train.data.course import Split, check_folder, read_split
from concord.train.data.demo_sets import DEMO_TASKS, demo_examples
from concord.train.data.tasks import Example, Task, select_tasks
from concord.train.settings.own import calling, own_names
from concord.train.settings.tables import DEMO, SOURCES

FOLDER = "course"


class Source(Protocol):
    """Gives tasks and their examples."""

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """The tasks called `names`, in that order; InputError for one that the source does not have."""

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split | None:
        """The examples of a split, train, dev or test; None where there is no test set. InputError for bad data."""


def open_source(data: str) -> Source:
    """The source that --data names."""
    if data == DEMO:
        return SOURCES.resolve(DEMO)(data)
    if own_names({"data": data}, ("data",)):
        return OwnSource(data)
    return SOURCES.resolve(FOLDER)(data)


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


class CourseSource:
    """A folder in the course layout."""

    def __init__(self, data: str) -> None:
        self._directory = Path(data)

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """See `Source`; those that the folder defines are among them."""
        # First of all: in a folder that is missing, a task that it should define would be reported as unknown.
        check_folder(self._directory)
        return select_tasks(list(names), self._directory)

    def read(self, task: Task, split: str, *, skip_bad_rows: bool) -> Split | None:
        """See `Source`."""
        return read_split(task, self._directory, split, skip_bad_rows=skip_bad_rows)


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
    if labelled:
        label = example.label
        number = isinstance(label, Real) and math.isfinite(label) and task.low <= label <= task.high
        if not number or (task.kind != "regression" and label != int(label)):
            kind = "a number" if task.kind == "regression" else "a whole number"
            return f"its label is {label!r}, expected {kind} from {task.low:g} to {task.high:g}"
    return ""
