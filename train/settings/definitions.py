"""Tables of data as tasks.toml or flags name them. Nothing heavy is imported here: flags are judged by it."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from concord.bert.errors import InputError, did_you_mean, one_line, shown
from concord.bert.files import MOST_JSON, exists, is_file, is_folder, read_data
from concord.train.settings.module_names import MODULE_NAMES
from concord.train.settings.task_choices import CLASS_WEIGHTS, ClassWeights, class_weights_of

Known = TypeVar("Known")
TASKS_FILE = "tasks.toml"
COURSE_TASKS = ("sst", "paraphrase", "sts", "cfimdb")
KINDS = ("classification", "binary", "regression")
QUOTINGS = ("standard", "none")
FILES = ".csv, .tsv, .jsonl (or these with .gz), or .parquet"
FORMS = ".csv, .tsv, .jsonl (or these with .gz), .parquet, a folder of save_to_disk, or a data set's name on the hub"
_FILE = re.compile(r"\.((csv|tsv|jsonl)(\.gz)?|parquet)$", re.IGNORECASE)
_GENERIC = ("train", "training", "data", "dataset", "dev", "all")  # names of files that say nothing of their task
_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";"}
HELD_OUT = 0.1  # share of the training rows that are the dev set where none is named


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """What is said of a task whose data are tables of any form.

    Attributes:
        name: of the task.
        train: a file, a folder of `datasets`, or a data set's name on the hub, with `:configuration` behind it or not.
        validation: the same, of the dev set; "" where there is none beside the training set.
        validation_split: share of the training set that is held out; None for `HELD_OUT` where there is no dev set.
        test: the same, of rows to be answered; "" where there is none beside the training set.
        text_columns: names of one or two columns, or their numbers from 1 where the file has no header; () to guess.
        label_column: the same, of the label; "" to guess.
        id_column: the same, of what rows are called in prediction files; "" for `id` if there is one, or else numbers.
        kind: of the task; "" to infer.
        labels: the classes in their order; () to infer.
        low: the least score; None to infer.
        high: the greatest score; None to infer.
        delimiter: between columns; "" to guess.
        quoting: standard, or none where quotes are characters as others; "" to guess.
        header: whether the first row of a delimited file has the columns' names; None to guess.
        limit: how many training rows are used, evenly spaced; 0 for all.
        weight: of the task's loss; None for what --loss-weights says.
        metric: what the task is judged by; None for what its kind is.
        class_weights: `balanced`, or label -> weight; None for 1.
        folder: that paths are relative to.
        kept: whether delimiter and quoting are those of another file, the training set, and guessed where they do not
            fit.
        confined: whether nothing outside of the folder may be named.
        named_by: what a message begins with: the file that says so, or a flag.
    """

    name: str
    train: str
    validation: str = ""
    validation_split: float | None = None
    test: str = ""
    text_columns: tuple[str, ...] = ()
    label_column: str = ""
    id_column: str = ""
    kind: str = ""
    labels: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    delimiter: str = ""
    quoting: str = ""
    header: bool | None = None
    limit: int = 0
    weight: float | None = None
    metric: str | None = None
    class_weights: ClassWeights | None = field(default=None, hash=False)
    folder: Path = field(default_factory=Path)
    kept: bool = False
    confined: bool = False
    named_by: str = ""


_NO_KEYS = ("name", "folder", "kept", "confined", "named_by")
_KEYS = tuple(one.name for one in fields(TableSpec) if one.name not in _NO_KEYS)
# A table with one of these is no task in the course's layout.
_OF_TABLES_ALONE = {"train", "validation", "validation_split", "test", "id_column", "delimiter", "quoting", "header"}
_OF_TABLES_ALONE |= {"limit", "weight"}


def is_table_name(name: str) -> bool:
    """Whether a name ends as a file of rows does."""
    return bool(_FILE.search(name))


def is_saved_folder(path: Path) -> bool:
    """Whether `datasets` has saved a data set, or several splits of one, in a folder."""
    return any(is_file(path / name) for name in ("dataset_dict.json", "state.json"))


def is_tasks_file(path: Path) -> bool:
    """Whether a path is a file that defines tasks."""
    return path.suffix.lower() == ".toml" and not is_folder(path)


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a tasks.toml, one for each task; InputError where it is none, or a name is a built-in task's."""
    try:
        content = tomllib.loads(read_data(path, "task definitions", MOST_JSON).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({error})") from None
    for name, table in content.items():
        if name in COURSE_TASKS:
            raise InputError(f"{path}: task {name} is built in, expected another name")
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} is {shown(table)}, expected a table [{name}] that defines a task")
    return content


def is_table(content: Mapping[str, Any]) -> bool:
    """Whether a table of tasks.toml defines a task by `train` rather than by the stem of files in the course's
    layout."""
    return not _OF_TABLES_ALONE.isdisjoint(content)


def read_specs(path: Path, *, confined: bool) -> dict[str, TableSpec]:
    """The tasks of a tasks.toml whose data are tables; confined: whether they may name nothing outside its folder."""
    return {
        name: table_spec(name, content, path, confined=confined)
        for name, content in read_toml(path).items()
        if is_table(content)
    }


def table_spec(name: str, content: Mapping[str, Any], path: Path, *, confined: bool = False) -> TableSpec:
    """One task of the tasks.toml at `path`; InputError that names everything that is wrong with it."""
    problems = []
    for key in content:
        if key == "stem":
            problems.append("stem is of files in the course's layout, expected train = FILE or it alone")
        elif key not in _KEYS:
            problems.append(f"unknown key {shown(key)}, {did_you_mean(key, _KEYS)}")
    if "train" not in content:
        problems.append("train is missing, expected the file of its training rows")
    values = {}
    for key, value in content.items():
        if key in _KEYS:
            try:
                values[key] = _CHECKS[key](value)
            except ValueError as error:
                problems.append(f"{key} is {shown(value)}, expected {error}")
    if {"validation", "validation_split"} <= values.keys():
        problems.append("validation and validation_split are both given, expected one of them")
    if values.get("kind") == "regression" and values.get("labels"):
        problems.append("labels are of classes, expected none for kind regression")
    if problems:
        raise InputError(f"{path}: task {name}: {'; '.join(problems)}")
    return TableSpec(
        name=name, folder=path.parent, confined=confined, named_by=f"{path}: task {name}", **{"train": "", **values}
    )


def _text(value: object) -> str:
    if isinstance(value, str) and value and value.isprintable():
        return value
    raise ValueError("a text")


def _column(value: object) -> str:
    if type(value) is int and value > 0:
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("a column's name, or its number from 1 where the file has no header")


def _columns(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and len(value) in (1, 2) and len({str(one) for one in value}) == len(value):
        return tuple(_column(one) for one in value)
    raise ValueError("a list of one column, or of two different ones")


def _labels(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(one, (str, int)) and str(one).strip() for one in value):
        found = tuple(str(one).strip() for one in value)
        if len(set(found)) == len(found) > 1:
            return found
    raise ValueError("a list of two labels or more, all different")


def _one_of(choices: Sequence[str]) -> Any:
    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"one of {', '.join(choices)}")

    return check


def _number(value: object) -> float:
    if type(value) in (int, float) and abs(value) < 1e18:  # false for NaN
        return float(value)
    raise ValueError("a number")


def _weight(value: object) -> float:
    if _number(value) < 0:
        raise ValueError("a number of at least 0")
    return _number(value)


def _share(value: object) -> float:
    if not 0 < _number(value) < 1:
        raise ValueError("a share between 0 and 1, such as 0.1")
    return _number(value)


def _count(value: object) -> int:
    if type(value) is int and 0 < value < 2**31:
        return value
    raise ValueError("a whole number of at least 1")


def _class_weights(value: object) -> ClassWeights:
    weights = class_weights_of(value)
    if weights is None:
        raise ValueError(CLASS_WEIGHTS)
    return weights


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def is_delimiter(sign: str) -> bool:
    """Whether a text may stand between columns."""
    return len(sign) == 1 and sign not in '"\r\n'


def _delimiter(value: object) -> str:
    found = _DELIMITERS.get(value, value) if isinstance(value, str) else ""
    if isinstance(found, str) and is_delimiter(found):
        return found
    raise ValueError('one character, such as ";" or "\\t"')


_CHECKS = {
    **dict.fromkeys(("train", "validation", "test"), _text),
    "validation_split": _share,
    "text_columns": _columns,
    **dict.fromkeys(("label_column", "id_column"), _column),
    "kind": _one_of(KINDS),
    "labels": _labels,
    **dict.fromkeys(("low", "high"), _number),
    "delimiter": _delimiter,
    "quoting": _one_of(QUOTINGS),
    "header": _truth,
    "limit": _count,
    "weight": _weight,
    "metric": _text,
    "class_weights": _class_weights,
}


def choose_tasks(names: list[str], known: Mapping[str, Known], where: str = f"DIR/{TASKS_FILE}") -> list[Known]:
    """What is known by `names`, in that order; where: the file in which a task may be defined.

    Raises InputError for an unknown name, a name given twice, and no name at all.
    """
    if not names:
        raise InputError(f"no task is given, {did_you_mean('', known)}")
    for position, name in enumerate(names):
        if name not in known:
            own = f"(one of your own is a table [{one_line(name, 20)}] in {where})"
            raise InputError(f"unknown task {shown(name)}, {did_you_mean(name, known)} {own}")
        if name in names[:position]:
            raise InputError(f"task {name!r} is given twice, expected each task once")
    return [known[name] for name in names]


def task_name(train: str) -> str:
    """A task's name made of the name of its training set: one word, and no built-in task's or torch's own."""
    path = Path(train.rpartition(":")[0] or train) if not exists(Path(train)) else Path(train)
    stem = _FILE.sub("", path.name)
    if stem.lower() in _GENERIC and path.absolute().parent.name:
        stem = path.absolute().parent.name
    word = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:48]
    if not word[:1].isalpha() or word in (*COURSE_TASKS, *_GENERIC) or word in MODULE_NAMES:
        word = f"task_{word}".rstrip("_")
    return word


def shown_columns(columns: Sequence[str]) -> str:
    """Columns' names as a message shows them."""
    return "[" + ", ".join(one_line(column, 40) or "(unnamed)" for column in columns[:30]) + "]"
