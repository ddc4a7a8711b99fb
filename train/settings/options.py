"""A setting: its default, its help and what it may be, from which both the checks and the command line are made."""

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import Field, field
from typing import Any

from concord.bert.errors import InputError, did_you_mean, shown
from concord.bert.tables import Table, is_own

# The first setting of each group -> the group's title in the help, in the order of the fields.
GROUPS = {
    "recipe": "data and model",
    "pooling": "objectives (task=value is for one task, a value alone for all, with commas between several)",
    "surgery": "surgery",
    "amp": "what computes",
    "epochs": "batches and stages",
    "learning_rate": "optimisation",
    "seed": "the run",
}
MOST = 2**31 - 1  # of every whole number that has no bound of its own
AUTO = "auto"  # in place of a whole number that a run finds
WHOLE_OR_AUTO = int | str
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    WHOLE_OR_AUTO: f"a whole number, or {AUTO}",
}


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def setting_text(value: Any) -> str:
    """A setting's value as the command line takes it."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def flag_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line, each with its value behind a =, so that no value is taken for a flag."""
    return [
        flag_of(name) if value is True else f"{flag_of(name)}={setting_text(value)}" for name, value in settings.items()
    ]


def setting(default: Any, help_text: str, **more: Any) -> Any:
    """A field of the configuration; more: what it may be, such as choices, low and high, or most, where no help says
    it."""
    return field(default=default, metadata={"help": help_text, **more})


def of_tables(default: Any, help_text: str, *tables: Table, also: tuple[str, ...] = ()) -> Any:
    """A setting that names members of these families, or code of the user's own; also: names that are none of them."""
    names = (*also, *(name for table in tables for name in table.names))
    kind = "each" if isinstance(default, tuple) else "choices"
    return setting(default, help_text, **{kind: names, "tables": tables, "also": also})


def check_choice(where: str, name: str, choices: Collection[str], option: Field) -> None:
    """InputError that begins with `where` for a name that is none of the choices nor of code of the user's own."""
    if name in choices or ("tables" in option.metadata and is_own(name)):
        return
    if "tables" in option.metadata and ":" in name:
        raise InputError(
            f"{where}: expected module:function of your own, as Python spells them, or {did_you_mean(name, choices)}"
        )
    raise InputError(f"{where}: {did_you_mean(name, choices)}")


def check_bounds(flag: str, value: Any, option: Field) -> None:
    """InputError where a number lies outside of what its setting allows."""
    low, high, auto = (option.metadata.get(name) for name in ("low", "high", "auto"))
    if option.type == WHOLE_OR_AUTO:
        auto = AUTO
    if auto is not None and value == auto:
        return
    if (low is not None and not value >= low) or (high is not None and value > high):
        expected = f"at least {low}" if high is None else f"a number from {low} to {high}"
        auto = f"{auto:g}" if isinstance(auto, float) else auto
        raise InputError(f"{flag} {shown(value)}: expected {expected}{'' if auto is None else f', or {auto}'}")
    most = option.metadata.get("most", MOST)
    if option.type in (int, WHOLE_OR_AUTO) and high is None and value > most:
        raise InputError(f"{flag} {shown(value)}: expected {most} at most")


def is_of_type(value: object, option: Field) -> bool:
    """Whether a value, which may come from a file, is of its setting's type. A whole number is a number too."""
    if isinstance(option.default, tuple):
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if option.type is float:
        # A whole number may be too large for a float, and then is no number here.
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < sys.float_info.max
        return whole or (isinstance(value, float) and math.isfinite(value))
    if option.type == WHOLE_OR_AUTO and isinstance(value, str):
        return value == AUTO
    return isinstance(value, option.type) and (option.type is bool or not isinstance(value, bool))
