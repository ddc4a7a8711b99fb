"""The file of a sweep: what is searched for, in which settings, over which others. TOML with the tables [sweep],
[settings] and [space]."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, did_you_mean, shown
from concord.train.settings.config import RunConfig
from concord.train.settings.options import WHOLE_OR_AUTO, WORDS, setting_text
from concord.train.settings.settings_file import SettingsFile, checked_setting, lines_of, read_content, settings_of
from concord.train.settings.values import MEAN

_TABLES = ("sweep", "settings", "space")
_OPTIONS: dict[str, Any] = {"trials": 20, "metric": MEAN, "seed": 1, "prune": True, "startup": 5}
_OF_RANGE = {"low": (int, float), "high": (int, float), "log": (bool,), "step": (int, float)}
_NOT_SEARCHED = ("recipe", "report_to")


@dataclass(frozen=True)
class Range:
    """What a setting may be in a sweep: one of `choices`, or a number from `low` to `high`.

    Attributes:
        choices: values as RunConfig takes them, or as text where they are several; () for a range.
        low, high: its ends, both included.
        log: whether it is searched by its logarithm; step: between two values, None for any number between.
        whole: whether its numbers are whole.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class SweepFile:
    """What a sweep is to do.

    Attributes:
        path: of the file.
        settings: of every trial, with the lines that they stand in.
        space: setting -> what it may be.
        trials: how many.
        metric: what is to become high: mean, a task (its main metric), or TASK.METRIC.
        seed: of what is tried.
        prune: whether trials end early that are below the median of the others at the same evaluation.
        startup: trials that are never pruned, and that are drawn at random.
    """

    path: Path
    settings: SettingsFile
    space: dict[str, Range]
    trials: int
    metric: str
    seed: int
    prune: bool
    startup: int


def read_sweep_file(path: Path) -> SweepFile:
    """The sweep in a file; InputError that names file and line for whatever is wrong with it."""
    content, text = read_content(path)
    top = SettingsFile(path, {}, lines_of(text, content))
    for name, value in content.items():
        if name not in _TABLES:
            raise InputError(
                f"{top.place_of(name)}: {shown(name)} is no table of a sweep; {did_you_mean(name, _TABLES)}"
            )
        if not isinstance(value, dict):
            raise InputError(f"{top.place_of(name)}: {name} is {shown(value)}, expected a table [{name}]")
    tables = {name: content.get(name, {}) for name in _TABLES}
    lines = {name: lines_of(text, table, name) for name, table in tables.items()}
    settings = settings_of(tables["settings"], path, lines["settings"])
    space_file = SettingsFile(path, {}, lines["space"])
    space = {name: _range(name, value, space_file) for name, value in tables["space"].items()}
    if not space:
        raise InputError(f"{path}: nothing to search for, expected a table [space] such as {_EXAMPLE}")
    for name in space:
        if name in settings.settings:
            raise InputError(f"{settings.place_of(name)}: {name} is in [space] too, expected it in one of them")
    return SweepFile(path, settings, space, **_options(tables["sweep"], SettingsFile(path, {}, lines["sweep"])))


_EXAMPLE = "learning_rate = { low = 1e-5, high = 1e-3, log = true }"


def _options(table: Mapping[str, Any], file: SettingsFile) -> dict[str, Any]:
    for name, value in table.items():
        if name not in _OPTIONS:
            raise InputError(
                f"{file.place_of(name)}: {shown(name)} is no key of [sweep]; {did_you_mean(name, _OPTIONS)}"
            )
        kind = type(_OPTIONS[name])
        if type(value) is not kind:
            raise InputError(f"{file.place_of(name)}: {name} is {shown(value)}, expected {WORDS[kind]}")
        if kind is int and not (name == "trials") <= value < 1 << 31:
            raise InputError(f"{file.place_of(name)}: {name} is {value}, expected at least {int(name == 'trials')}")
    return _OPTIONS | dict(table)


def _range(name: str, value: Any, file: SettingsFile) -> Range:
    """What the setting `name` may be; InputError where it is no setting, or its range is none."""
    where = file.place_of(name)
    options = {option.name: option for option in fields(RunConfig) if option.name not in _NOT_SEARCHED}
    if name not in options:
        raise InputError(f"{where}: {shown(name)} is no setting that is searched; {did_you_mean(name, list(options))}")
    wrong = InputError(f"{where}: {name} is {shown(value)}, expected {_FORMS}")
    if not isinstance(value, dict):
        raise wrong
    if "choices" in value:
        choices = value["choices"]
        if value.keys() != {"choices"} or not isinstance(choices, list) or not choices:
            raise wrong
        found = [checked_setting(name, choice, where) for choice in choices]
        return Range(tuple(setting_text(choice) if isinstance(choice, tuple) else choice for choice in found))
    sound = {"low", "high"} <= value.keys() <= _OF_RANGE.keys()
    if not sound or any(type(own) not in _OF_RANGE[key] for key, own in value.items()):
        raise wrong
    low, high, step = (value.get(key) for key in ("low", "high", "step"))
    for end in (low, high):
        checked_setting(name, end, where)
    whole = options[name].type in (int, WHOLE_OR_AUTO)
    if whole and not isinstance(step, int | None):
        raise wrong
    logarithmic = value.get("log") and (low <= 0 or step is not None)
    if not low < high or logarithmic or not 0 < (1 if step is None else step) < math.inf:
        raise InputError(f"{where}: {name} is {shown(value)}, expected low < high, log above 0 and without a step")
    if step is not None and (Fraction(str(high)) - Fraction(str(low))) % Fraction(str(step)):
        raise InputError(f"{where}: {name} is {shown(value)}, expected a step that leads from low to high")
    return Range((), low, high, value.get("log", False), step, whole)


_FORMS = "{ choices = [...] }, or { low = ..., high = ... } with log = true or step = ... if you like"
