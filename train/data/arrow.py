"""Tables in Arrow's forms: Parquet files, folders that `datasets` saved, and data sets of the Hugging Face hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, one_line
from concord.bert.files import is_file, read_json_object
from concord.train.data.table import Row

EXTRA = "pip install 'concord-bert[data]'"
SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "validation_matched"), "test": ("test",)}
_BATCH = 1000  # rows that are made Python's at a time


@dataclass
class ArrowTable:
    """See `train.data.table.Table`; a class of `datasets.ClassLabel` is read as its name.

    source: a `datasets.Dataset`, or a `pyarrow.parquet.ParquetFile`.
    """

    name: str
    columns: list[str]
    source: Any
    declared: Mapping[str, tuple[str, ...]]
    notes: list[str] = field(default_factory=list)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """See `Table`; a row's line is its number, from 1."""
        line = 0
        classes = [self.declared.get(column) for column in columns]
        with _told(self.name):
            for batch in _batches(self.source, columns):
                for values in zip(*(batch[column] for column in columns), strict=True):
                    line += 1
                    yield Row(line, [_named(value, names) for value, names in zip(values, classes, strict=True)])


def _batches(source: Any, columns: Sequence[str]) -> Iterator[Mapping[str, list[Any]]]:
    unique = list(dict.fromkeys(columns))
    if hasattr(source, "iter_batches"):
        for batch in source.iter_batches(batch_size=_BATCH, columns=unique):
            yield batch.to_pydict()
    else:
        yield from source.select_columns(unique).iter(batch_size=_BATCH)


def _named(value: Any, names: tuple[str, ...] | None) -> Any:
    """A class as its name; None where the data set marks that there is none, as by -1."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def open_parquet(path: Path) -> ArrowTable:
    """The table of a Parquet file; InputError where it is damaged, or the extra `data` is not installed."""
    if not is_file(path):
        raise InputError(f"{path}: cannot be read, expected a Parquet file")
    datasets = _library(str(path))
    import pyarrow.parquet

    with _told(str(path)):
        file = pyarrow.parquet.ParquetFile(path)
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
    return ArrowTable(str(path), list(file.schema_arrow.names), file, _declared(features))


def open_saved(path: Path) -> dict[str, ArrowTable]:
    """The splits of a folder that `datasets` saved, train, dev or test -> its table; a single set is the one of train.

    InputError where it is damaged, names files elsewhere, or the extra `data` is not installed.
    """
    _check_names(path)
    datasets = _library(str(path))
    with _told(str(path)):
        return _splits(datasets.load_from_disk(str(path)), str(path))


def open_hub(name: str) -> dict[str, ArrowTable]:
    """The same of a data set of the hub, `name` or `name:configuration`, from the hub's cache or the hub.

    InputError where there is none, it cannot be had, or the extra `data` is not installed.
    """
    datasets = _library(name)
    owner, _, configuration = name.partition(":")
    with _told(name, "; a file or a folder of that name there is not"):
        return _splits(datasets.load_dataset(owner, configuration or None), name)


def _splits(loaded: Any, name: str) -> dict[str, ArrowTable]:
    sets = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    found = {}
    for split, names in SPLIT_NAMES.items():
        own = next((one for one in names if one in sets), None)
        if own is not None:
            shown_name = name if len(sets) == 1 else f"{name} ({own})"
            found[split] = ArrowTable(
                shown_name, list(sets[own].column_names), sets[own], _declared(sets[own].features)
            )
    if not found:
        raise InputError(f"{name}: its splits are {one_line(', '.join(sets), 100)}, expected train among them")
    return found


def _declared(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(one.names) for name, one in features.items() if type(one).__name__ == "ClassLabel"}


def _check_names(folder: Path) -> None:
    """InputError where what a saved folder names lies elsewhere: its splits and files are plain names."""
    inner = [folder]
    if is_file(folder / "dataset_dict.json"):
        splits = read_json_object(folder / "dataset_dict.json", "the splits of a data set").get("splits")
        if not (isinstance(splits, list) and all(isinstance(one, str) for one in splits)):
            raise InputError(f"{folder / 'dataset_dict.json'}: not the splits of a data set, expected a list of them")
        inner = [folder / _plain(folder, one) for one in splits]
    for one in inner:
        files = read_json_object(one / "state.json", "the files of a data set").get("_data_files")
        for file in files if isinstance(files, list) else []:
            name = _plain(one, file.get("filename") if isinstance(file, dict) else None)
            if not (one / name).resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{one / name}: it lies at {(one / name).resolve()}, expected a file within {folder}")


def _plain(folder: Path, name: Any) -> str:
    if isinstance(name, str) and name and Path(name).name == name and "\\" not in name:
        return name
    raise InputError(f"{folder}: it names {json.dumps(name)[:80]}, expected plain names of files in it")


def _library(name: str) -> Any:
    """The package `datasets`; InputError that says how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{name}: to read it, install the extra `data`: {EXTRA} ({error})") from None
    datasets.disable_progress_bars()
    return datasets


@contextmanager
def _told(name: str, more: str = "") -> Iterator[None]:
    """Within this context errors of the library become InputErrors of one line."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of many kinds: Arrow's, the hub's, the network's
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: cannot be read ({one_line(reason, 200)}){more}") from None
