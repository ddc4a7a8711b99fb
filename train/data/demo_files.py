"""The demo data set as files in the course's layout."""

import csv
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.train.data.demo_sets import DEMO_SIZES, DEMO_TASKS, demo_examples
from concord.train.data.tasks import Example, Task, select_tasks


def write_demo(directory: Path) -> list[Path]:
    """Write the train, dev and unlabelled test file of each task into a folder, which is created where missing.

    Returns the files. Raises InputError where one cannot be written, or before any is where one is there already.
    """
    files = {
        directory / f"{task.stem}-{split}{'-student' if split == 'test' else ''}.csv": (task, split)
        for task in select_tasks(list(DEMO_TASKS), None)
        for split in DEMO_SIZES
    }
    for path in files:
        if path.exists():
            raise InputError(f"{path}: the file is there already; give another --out, or remove it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, (task, split) in files.items():
            with replacing(path) as beside:
                _write(beside, task, demo_examples(task.name, split), labelled=split != "test")
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}, expected a folder to write into") from error
    return list(files)


def _write(path: Path, task: Task, examples: list[Example], *, labelled: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        rows.writerow(["", "id", *task.text_columns, *([task.label_column] if labelled else [])])
        for index, example in enumerate(examples):
            texts = [example.first, example.second] if task.pair else [example.first]
            rows.writerow([index, example.id, *texts, *([_label(task, example)] if labelled else [])])


def _label(task: Task, example: Example) -> float | int | None:
    if task.kind == "classification" and example.label is not None:
        return int(example.label)
    return example.label
