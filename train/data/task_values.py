"""The values of a task's definition, each as its type."""

from pathlib import PurePath, PureWindowsPath
from typing import Literal, get_args

from concord.bert.errors import InputError, shown
from concord.train.settings import task_choices
from concord.train.settings.task_choices import ClassWeights

Kind = Literal["classification", "binary", "regression"]
FARTHEST = 1e18  # from 0, of a label: its square is still finite in fp32


def lies_within(stem: str) -> bool:
    """Whether a path stays in the folder that it is relative to, on whichever system."""
    return all(not kind(stem).anchor and ".." not in kind(stem).parts for kind in (PurePath, PureWindowsPath))


def typed(name: str, key: str, value: object, expected: object) -> object:
    """The value of a task's key as the type that `Task` has for it; InputError where it is none."""
    if type(value) is int and abs(value) >= FARTHEST:
        raise InputError(f"task {name}: {key} is {shown(value)}, expected a number within {FARTHEST:g} of 0")
    if expected in (bool, int) and type(value) is expected:
        return value
    if expected is float and type(value) in (int, float):
        return float(value)
    if expected in (str, str | None) and isinstance(value, str) and value:
        return value
    if value is None and expected in (str | None, ClassWeights | None):  # as a run's folder keeps them
        return None
    if expected == bool | None and isinstance(value, bool):
        return value
    if expected == ClassWeights | None and (weights := task_choices.class_weights_of(value)) is not None:
        return weights
    if expected is Kind and isinstance(value, str) and value in get_args(Kind):
        return value
    if (
        expected == tuple[str, ...]
        and isinstance(value, list)
        and all(isinstance(text, str) and text for text in value)
    ):
        return tuple(value)
    words = {
        bool: "true or false",
        bool | None: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        str | None: "a text",
        ClassWeights | None: task_choices.CLASS_WEIGHTS,
        Kind: f"one of {', '.join(get_args(Kind))}",
    }
    raise InputError(f"task {name}: {key} is {shown(value)}, expected {words.get(expected, 'a list of column names')}")
