"""A configuration as a file: flat JSON, a key a flag."""

import json
from collections.abc import Collection
from dataclasses import asdict, fields
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import MOST_JSON, read_data
from concord.train.settings.config import RunConfig


def write_config(config: RunConfig, path: Path) -> None:
    """Write a configuration as JSON."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def read_config(
    path: Path, names: Collection[str] | None = None, *, content_is: str = "configuration", of: str = "a run"
) -> RunConfig:
    """The configuration that `write_config` wrote, or one of which the file holds the settings `names` alone.

    content_is, of: what the file is for whom, in the InputError that is raised where it is missing or holds something
    else.
    """
    if not path.is_file():
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
