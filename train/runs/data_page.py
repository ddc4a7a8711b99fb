"""One page on data before anything is trained on them: what `python -m train.data_check` prints."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np

from concord.bert.errors import InputError, one_line
from concord.bert.models import load_model
from concord.bert.tokenizer import Tokenizer
from concord.train.data.course import Split, name_bad_rows
from concord.train.data.sources import FileSource
from concord.train.data.tasks import BUILT_IN_TASKS, Example, Task, known_tasks
from concord.train.data.tokenized import tokenize_split
from concord.train.settings.definitions import (
    FILES,
    TASKS_FILE,
    TableSpec,
    is_saved_folder,
    is_table,
    is_table_name,
    is_tasks_file,
    read_toml,
    shown_columns,
    table_spec,
    task_name,
)

_SHOWN = 3  # bad rows of a set, and rows with equal texts, that are named
_MOST_TASKS = 12  # that are shown
_SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def print_page(data: str, *, text_column: Sequence[str], label_column: str, model: str, max_length: int) -> int:
    """Print the page on `data`, a file of rows, a tasks.toml or a folder.

    text_column, label_column: of a file; nothing to guess. model: whose wordpieces are counted; max_length: after how
    many of them a text is cut. Returns 0, or 2 where a task cannot be read, each of which has its line. InputError
    where there is nothing to look at, and for a wrong model.
    """
    path = Path(data)
    source, names, problems = _find(path, tuple(text_column), label_column)
    tokenizer = load_model(model, seed=1).tokenizer if names else None
    guessed: list[tuple[Task, TableSpec]] = []
    for name in names[:_MOST_TASKS]:
        try:
            (task,) = source.tasks([name])
            print("\n".join(_about(source, task, tokenizer, max_length)))
            spec = source.specs().get(name)
            if spec is not None:
                guessed.append((task, spec))
        except InputError as error:
            problems.append(str(error))
    if len(names) > _MOST_TASKS:
        print(f"and {len(names) - _MOST_TASKS} more tasks: give a file to look at one")
    for problem in problems:
        print(f"error: {problem}")
    if guessed and not is_tasks_file(path) and not (path / TASKS_FILE).exists():
        print(f"\n# as a {TASKS_FILE}, for --data {TASKS_FILE}:")
        print("\n".join(line for task, spec in guessed for line in _as_toml(task, spec)))
    return 2 if problems else 0


def _find(path: Path, texts: tuple[str, ...], label: str) -> tuple[FileSource, list[str], list[str]]:
    """Where examples come from, the tasks that there are, and what is wrong with those that are no tasks."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected data: a {TASKS_FILE}, a folder, or {FILES}")
    file = path if is_tasks_file(path) else path / TASKS_FILE
    if file.exists():
        if texts or label:
            raise InputError(f"--text-column and --label-column: {file} says which columns, expected a file of rows")
        return _of_definitions(file, confined=file != path)
    if path.is_dir() and not is_saved_folder(path):
        built_in = [task.name for task in BUILT_IN_TASKS if (path / f"{task.stem}-train.csv").exists()]
        if built_in:
            return FileSource(path), built_in, []
        tables = _in_folder(path)
    elif path.is_dir() or is_table_name(path.name):
        tables = {task_name(str(path)): {"train": path}}
    else:
        raise InputError(f"{path}: a file of unknown form, expected a {TASKS_FILE}, or {FILES}")
    specs = {
        name: TableSpec(
            name=name,
            text_columns=texts,
            label_column=label,
            named_by="--text-column and --label-column name them",
            **{split: str(file.absolute()) for split, file in files.items()},
        )
        for name, files in tables.items()
    }
    return FileSource(path if path.is_dir() else path.parent, tables=specs), list(specs), []


def _of_definitions(file: Path, *, confined: bool) -> tuple[FileSource, list[str], list[str]]:
    """The tasks of a tasks.toml; each wrong one, with everything that is missing, is a problem and no task."""
    problems, tables = [], {}
    content = read_toml(file)
    course = []
    for name, table in content.items():
        try:
            if is_table(table):
                tables[name] = table_spec(name, table, file, confined=confined)
            else:
                course.append(known_tasks(file, only=name)[name])
        except InputError as error:
            problems.append(str(error))
    folder = file.parent
    built_in = [task for task in BUILT_IN_TASKS if (folder / f"{task.stem}-train.csv").exists()]
    source = FileSource(folder, tables=tables, course=[*built_in, *course])
    names = [task.name for task in built_in] + [name for name in content if name in source.names()]
    return source, names, problems


def _in_folder(path: Path) -> dict[str, dict[str, Path]]:
    """The tables in a folder: one task where one file is called train, or else one for each file."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(path.iterdir()):
        if is_table_name(file.name):
            files[file.name.partition(".")[0].lower()].append(file)
    if not files:
        raise InputError(f"{path}: no data in it, expected a {TASKS_FILE}, or files such as {FILES}")
    train = files.get("train", [])
    if len(train) != 1:
        tables: dict[str, dict[str, Path]] = {}
        for file in (file for own in files.values() for file in own):
            name = task_name(str(file))
            others = (f"{name}_{number}" for number in count(2))
            tables[next(one for one in chain([name], others) if one not in tables)] = {"train": file}
        return tables
    found = {"train": train[0]}
    for split, names in _SPLIT_NAMES.items():
        present = [file for name in names for file in files.get(name, [])]
        if present:
            found[split] = present[0]
    return {task_name(str(train[0])): found}


def _about(source: FileSource, task: Task, tokenizer: Tokenizer, max_length: int) -> Iterator[str]:
    """The lines on a task."""
    sets = {split: source.read(task, split, skip_bad_rows=True) for split in ("train", "dev", "test")}
    found = {split: own for split, own in sets.items() if own is not None}
    yield task.name
    columns = source.columns(task)
    if columns:
        yield f"  columns    {shown_columns(columns)}"
    for split, own in found.items():
        bad = f"; left out: {name_bad_rows(own.bad_rows, _SHOWN)}" if own.bad_rows else ""
        yield f"  {split:<10} {len(own.examples)} rows{bad}"
        for note in own.notes:
            yield f"             {note}"
    yield f"  labels     {_shares(task, found['train'].examples)}"
    for split, own in found.items():
        yield f"  {split + ' length':<12} {_lengths(task, own, tokenizer, max_length)}"
    yield from _equal_texts(task, found)


def _shares(task: Task, examples: Sequence[Example]) -> str:
    labels = np.array([example.label for example in examples])
    if task.kind == "regression":
        quarters = np.quantile(labels, [0.0, 0.25, 0.5, 0.75, 1.0])
        return "least {:g}, quarters {:g}, {:g}, {:g}, greatest {:g}".format(*quarters)
    counts = Counter(labels.tolist())
    names = task.labels or [str(number) for number in range(int(task.high) + 1)]
    shares = [
        f"{one_line(names[int(number)], 30)} {count / len(labels):.1%}" for number, count in counts.most_common(12)
    ]
    return ", ".join(shares) + (f", and {len(counts) - 12} more" if len(counts) > 12 else "")


def _lengths(task: Task, own: Split, tokenizer: Tokenizer, max_length: int) -> str:
    split = tokenize_split(task, own.examples, tokenizer, pair_encoding="joint", max_length=max_length, cache=None)
    middle, most = np.quantile(np.diff(split.cu_seqlens), [0.5, 0.95])
    cut = f"{split.truncated} longer than {max_length} and cut" if split.truncated else f"none longer than {max_length}"
    return f"wordpieces: half have {middle:.0f} at most, 95% {most:.0f}; {cut}"


def _equal_texts(task: Task, found: dict[str, Split]) -> Iterator[str]:
    """Lines on rows with equal texts: in one set, in train and dev both, and with different labels."""
    rows: dict[str, dict[tuple[str, str], list[Example]]] = {}
    for split in ("train", "dev"):
        rows[split] = defaultdict(list)
        for example in found[split].examples:
            key = tuple(" ".join(text.split()).casefold() for text in (example.first, example.second or ""))
            rows[split][key].append(example)
    repeated = [own for own in rows["train"].values() if len(own) > 1]
    yield f"  repeated   texts that stand more than once in train: {len(repeated)}{_such_as(repeated)}"
    both = [[*rows["train"][key], *own] for key, own in rows["dev"].items() if key in rows["train"]]
    yield f"  in both    texts of dev that stand in train too: {len(both)}{_such_as(both)}"
    differing = [own for own in repeated if len({example.label for example in own}) > 1]
    yield f"  differing  texts of train with different labels: {len(differing)}{_such_as(differing)}"


def _such_as(groups: Sequence[Sequence[Example]]) -> str:
    if not groups:
        return ""
    places = [example.source.rpartition("/")[2] for example in groups[0][:_SHOWN]]
    return f", such as {one_line(', '.join(places), 100)}"


def _as_toml(task: Task, spec: TableSpec) -> Iterator[str]:
    """The table of a tasks.toml that says what was guessed of a task."""
    yield f"[{task.name}]"
    for key in ("train", "validation", "test"):
        if getattr(spec, key):
            yield f"{key} = {_quoted(getattr(spec, key))}"
    yield f"text_columns = [{', '.join(map(_quoted, task.text_columns))}]"
    yield f"label_column = {_quoted(task.label_column)}"
    if task.header is False:
        yield "header = false"
    yield f"kind = {_quoted(task.kind)}"
    if task.labels and len(task.labels) <= 50:
        yield f"labels = [{', '.join(map(_quoted, task.labels))}]"
    if task.kind == "regression":
        yield f"low = {task.low!r}"
        yield f"high = {task.high!r}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
