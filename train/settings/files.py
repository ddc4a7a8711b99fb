"""A configuration as a file, a key a flag: flat JSON, and TOML for the user to change."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import MOST_JSON, is_file, read_data
from concord.train.settings.config import RunConfig
from concord.train.settings.options import GROUPS


def write_config(config: RunConfig, path: Path) -> None:
    """Write a configuration as JSON."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def toml_of(config: RunConfig) -> str:
    """All settings as TOML that `train.settings.settings_file` reads back; a comment has the default of each that has
    another value."""
    lines = []
    for option in fields(config):
        if option.name in GROUPS:
            lines += ["" if lines else "# Settings of a run, for --config.", f"# {GROUPS[option.name].split(' (')[0]}"]
        value = getattr(config, option.name)
        default = "" if value == option.default else f"  # default {_toml_value(option.default)}"
        lines.append(f"{option.name} = {_toml_value(value)}{default}")
    return "\n".join(lines) + "\n"


def toml_lines(settings: Mapping[str, Any]) -> str:
    """Some settings as TOML, a line each."""
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in settings.items())


def _toml_value(value: Any) -> str:
    """A value as TOML, whose texts are those of JSON but for the sign that deletes."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return (
        repr(value) if type(value) in (int, float) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    )


def read_config(
    path: Path, names: Collection[str] | None = None, *, content_is: str = "configuration", of: str = "a run"
) -> RunConfig:
    """The configuration that `write_config` wrote, or one of which the file holds the settings `names` alone.

    content_is, of: what the file is for whom, in the InputError that is raised where it is missing or holds something
    else.
    """
    if not is_file(path):
        raise InputError(f"{path.parent}: not the folder of {of}, expected {path.name} in it")
    written = read_data(path, f"the {content_is} of {of}", MOST_JSON)
    try:
        content = json.loads(written.decode("utf-8"))
        if content.keys() != (set(names) if names is not None else {option.name for option in fields(RunConfig)}):
            raise ValueError("its settings are those of another version")
        return RunConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in content.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the {content_is} of {of} ({error})") from None
