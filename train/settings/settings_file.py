"""A file of settings, TOML or the config.json of a run, read with the line of each for whatever is wrong with it."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, did_you_mean, shown
from concord.bert.files import MOST_JSON, read_data
from concord.train.settings.config import RunConfig
from concord.train.settings.options import WORDS, is_of_type

SUFFIXES = (".toml", ".json")


@dataclass(frozen=True)
class SettingsFile:
    """Settings that a file gives.

    Attributes:
        path: of the file.
        settings: name -> value, as RunConfig takes it.
        lines: name -> its line, from 1; a name is missing where the line is not to be had.
        others: keys that are no settings of a run, and that the file may have.
    """

    path: Path
    settings: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def place_of(self, name: str) -> str:
        """The file, with the line of a key where it can be had."""
        return f"{self.path}, line {self.lines[name]}" if name in self.lines else str(self.path)


def read_settings_file(
    path: Path, others: Mapping[str, type] | None = None, without: Iterable[str] = ()
) -> SettingsFile:
    """The settings in a file that ends in .toml or .json.

    others: keys that are no settings, and the type of each; without: settings that it may not have. InputError that
    names file and line for an unknown key and for a value of the wrong type.
    """
    content, text = read_content(path)
    return settings_of(content, path, lines_of(text, content), others, without)


def read_content(path: Path) -> tuple[dict[str, Any], str]:
    """What a file that ends in .toml or .json holds, and its text; InputError where it holds something else."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a file of settings that ends in .toml, or the config.json of a run")
    written = read_data(path, "settings, in a .toml or the config.json of a run", MOST_JSON)
    form = path.suffix[1:].upper()
    try:
        text = written.decode("utf-8-sig")
        content = tomllib.loads(text) if form == "TOML" else json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not {form} ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: {shown(content)}, expected an object of settings")
    return content, text


def settings_of(
    content: Mapping[str, Any],
    path: Path,
    lines: Mapping[str, int],
    others: Mapping[str, type] | None = None,
    without: Iterable[str] = (),
) -> SettingsFile:
    """The settings among the keys of a file, or of a table in it, which stand in these lines; the rest is as for
    `read_settings_file`."""
    others, left_out = others or {}, set(without)
    names = [option.name for option in fields(RunConfig) if option.name not in left_out]
    file = SettingsFile(path, {}, dict(lines))
    for name, value in content.items():
        if name in others:
            if not isinstance(value, others[name]):
                raise InputError(f"{file.place_of(name)}: {name} is {shown(value)}, expected {WORDS[others[name]]}")
            file.others[name] = value
        elif name not in names:
            raise InputError(f"{file.place_of(name)}: {shown(name)} is no setting; {did_you_mean(name, names)}")
        else:
            file.settings[name] = checked_setting(name, value, file.place_of(name))
    return file


def checked_setting(name: str, value: Any, where: str) -> Any:
    """A setting's value as RunConfig takes it: a text with commas, a list or a number becomes a tuple where the setting
    has several values. InputError that begins with `where` for a value of another type."""
    option = next(option for option in fields(RunConfig) if option.name == name)
    found, expected = value, WORDS.get(option.type, "texts, in a list or with commas")
    if isinstance(option.default, tuple):
        found = _as_tuple(value)
    if not is_of_type(found, option):
        raise InputError(f"{where}: {name} is {shown(value)}, expected {expected}")
    return float(found) if option.type is float else found


def _as_tuple(value: Any) -> Any:
    """Several texts; the value itself where it is nothing of the kind."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    items = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in items):
        return tuple(map(str, items))
    return value


def lines_of(text: str, content: Mapping[str, Any], table: str = "") -> dict[str, int]:
    """The line in which each key of a file, or of a table in it, stands: the first that begins with it."""
    found: dict[str, int] = {}
    inside = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([\w-]+)\]", line)
        if header and not table:
            found.setdefault(header[1], number)
        inside = header[1] if header else inside
        match = re.match(r"""\s*\{?\s*["']?([\w-]+)["']?\s*[=:.]""", line)
        if match and match[1] in content and (not table or inside == table):
            found.setdefault(match[1], number)
    return {name: number for name, number in found.items() if name in content}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key may stand twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found
