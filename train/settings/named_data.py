"""What data the flags name, worked out before any row is read: the tasks, their weights, and files for folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import exists, is_file, is_folder
from concord.train.settings.definitions import (
    COURSE_TASKS,
    FORMS,
    TASKS_FILE,
    is_saved_folder,
    is_table_name,
    is_tasks_file,
    read_toml,
    task_name,
)
from concord.train.settings.own import own_names
from concord.train.settings.tables import DEMO

PATHS = ("train_file", "validation_file", "test_file")
DATA_SETTINGS = ("data", *PATHS, "text_column", "label_column")
_COURSE_STEMS = ("ids-sst", "quora", "sts", "ids-cfimdb")


def with_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are `given`, with those that follow from the data that they name.

    A file of rows, or a folder that `datasets` saved, is --train-file's wherever it is given. Without --tasks, a
    tasks.toml's tasks are all of them, and --train-file's is called as its file. The weights that a tasks.toml has are
    --loss-weights, unless those are given. InputError where --data and --train-file are both given, where --data is a
    file of another kind, and for a wrong tasks.toml.
    """
    settings = dict(given)
    if settings.get("data") and settings.get("train_file"):
        raise InputError(f"--data {settings['data']} and --train-file: expected one of them")
    data = settings.get("data", "")
    path = None if data in ("", DEMO) or own_names(settings, ("data",)) else Path(data)
    if path is not None and (is_saved_folder(path) or (is_table_name(path.name) and not is_folder(path))):
        settings["train_file"] = settings.pop("data")
    elif path is not None and is_file(path) and not is_tasks_file(path):
        raise InputError(f"--data {data}: a file, expected a tasks.toml, a folder, or one of {FORMS}")
    elif path is not None:
        _add_tasks(settings, path)
    if settings.get("train_file") and "tasks" not in settings:
        settings["tasks"] = (task_name(settings["train_file"]),)
    return settings


def _add_tasks(settings: dict[str, Any], path: Path) -> None:
    """Add the tasks of a tasks.toml, or of the one in a folder, and their weights, where no flag says them."""
    file = path if is_tasks_file(path) else path / TASKS_FILE
    if file == path and not exists(file):
        raise InputError(f"--data {path}: no such file, expected a tasks.toml or a folder")
    if not exists(file):
        return
    content = read_toml(file)
    if file == path and not content:
        raise InputError(f"{file}: no task in it, expected a table such as [reviews] with train = FILE")
    own = file == path or not any(exists(path / f"{stem}-train.csv") for stem in _COURSE_STEMS)
    if "tasks" not in settings and own and content:
        settings["tasks"] = tuple(content)
    weights = [f"{name}={content[name]['weight']}" for name in settings.get("tasks", ()) if _weighs(content, name)]
    if weights and "loss_weights" not in settings:
        settings["loss_weights"] = tuple(weights)


def _weighs(content: Mapping[str, Any], name: str) -> bool:
    return name not in COURSE_TASKS and "weight" in content.get(name, {})


def from_anywhere(name: str, value: Any) -> Any:
    """The value of a setting, with a path made absolute, so that the run can be resumed from any folder."""
    if value == "":
        return value
    if name == "recipe":
        is_path = is_file(Path(value))
    elif name in PATHS:
        is_path = exists(Path(value)) or is_table_name(value)
    elif name == "data":
        is_path = value not in ("", DEMO) and not own_names({name: value}, (name,))
    else:
        is_path = name == "model" and value not in ("minilm", "tiny") and is_folder(Path(value))
    return str(Path(value).absolute()) if is_path else value
