"""The settings of a run from several places: flags win over a file, the file over a recipe, and that over defaults."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.train.settings.config import RunConfig
from concord.train.settings.named_data import DATA_SETTINGS, from_anywhere, with_data
from concord.train.settings.own import check_trusted, import_own, own_names
from concord.train.settings.recipes import read_recipe
from concord.train.settings.settings_file import SettingsFile, read_settings_file
from concord.train.settings.tables import DEMO

# The settings that may name code of the user's own.
OF_TABLES = tuple(option.name for option in fields(RunConfig) if "tables" in option.metadata)


def layered(flags: Mapping[str, Any], path: Path | None) -> RunConfig:
    """The settings that `flags` give, over those of the file at `path`, over the recipe that either names, over the
    defaults.

    InputError where a value is not allowed, with the file and the line that it comes from; and where code of the user's
    own is not to be had, or a file names some that no flag does, nor CONCORD_OWN.
    """
    file = read_settings_file(path) if path else SettingsFile(Path(), {})
    name = flags.get("recipe", file.settings.get("recipe"))
    files = [file, *([read_recipe(name).file] if name else [])]
    typed = own_names(flags, OF_TABLES)
    for own in files:
        check_trusted(own_names(own.settings, OF_TABLES), typed, own.path)
    settings = dict(flags)
    try:
        # What follows from the data that a layer names is of that layer, and wins over those below.
        for own in files:
            settings = with_data(over_file(settings, own))
        import_own(own_names(settings, OF_TABLES))
        return RunConfig(**settings)
    except InputError as error:
        raise _located(error, flags, files) from None


def over_file(flags: Mapping[str, Any], file: SettingsFile) -> dict[str, Any]:
    """The settings that `flags` give over those of a file, and no others."""
    lower = {name: from_anywhere(name, value) for name, value in file.settings.items()}
    return _one_place_of_data(flags, lower)


def _one_place_of_data(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over those of a file. --data and --train-file are two names of one choice: the file's yields to the
    upper one, with what only followed from it, and with its other files and its columns where that is --data; and in
    the config.json of a run --data has its default where --train-file is the choice."""
    kept = dict(lower)
    if kept.get("train_file") and kept.get("data") == DEMO:
        del kept["data"]
    if upper.keys() & {"data", "train_file"}:
        for name in _following(kept):
            del kept[name]
    if "data" in upper:
        kept = {name: value for name, value in kept.items() if name not in DATA_SETTINGS}
    if "train_file" in upper:
        kept.pop("data", None)
    return kept | dict(upper)


def _following(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a file that say only what would follow from the data that it names."""
    names = [name for name in ("tasks", "loss_weights") if name in settings]
    try:
        found = with_data({name: value for name, value in settings.items() if name not in names})
    except InputError:  # its data are no more, so that nothing is known to follow
        return []
    return [name for name in names if settings[name] == found.get(name, getattr(RunConfig, name))]


def _located(error: InputError, flags: Mapping[str, Any], files: Sequence[SettingsFile]) -> InputError:
    """The error with the place of the setting that it begins with; the error itself where that is a flag's, or no file
    gives any settings."""
    match = re.match(r"--([a-z-]+)", str(error))
    name = match[1].replace("-", "_") if match else ""
    if name not in flags:
        for file in files:
            if name in file.lines:
                return InputError(f"{error} ({file.place_of(name)})")
    used = [str(file.path) for file in files if file.settings]
    return InputError(f"{error} (with the settings of {' and '.join(used)})") if used else error
