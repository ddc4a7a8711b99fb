"""What a task's labels are, inferred from its training set: classes in their order, or the range of a score."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from concord.bert.errors import InputError, one_line, shown, suggestion
from concord.train.data.task_values import FARTHEST
from concord.train.settings.definitions import TableSpec

MOST_WHOLE_NUMBERS = 50  # different ones that are classes; more are scores
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SHOWN = 12  # labels that the banner counts one by one
_NAMED = 3  # labels that the message on a bad row names


@dataclass(frozen=True)
class Labels:
    """What a task's head is to answer.

    Attributes:
        kind: of the task.
        names: of the classes, in their order; () for a score.
        low: the least label.
        high: the greatest label.
    """

    kind: str
    names: tuple[str, ...]
    low: float
    high: float


def label_value(value: Any) -> int | float | str | None:
    """A cell as a label: a whole number, another number, or a text; None where there is none.

    Numbers may stand as texts, but for whole ones that begin with 0, which would lose it; a text such as 12E45, beyond
    the numbers that a label may be, is a text as others. ValueError for what is no label, and UnicodeEncodeError, which
    is one, for half of a surrogate pair.
    """
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, (int, float)):
        if isinstance(value, float) and math.isnan(value):
            return None
        if abs(value) >= FARTHEST:
            raise ValueError
        return int(value) if value == int(value) else float(value)
    if not isinstance(value, str):
        raise ValueError
    text = value.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and ("." in text or "e" in text.lower()) and abs(number := float(text)) < FARTHEST:
        return label_value(number)
    text.encode("utf-8")  # JSON may escape what no text holds
    return text or None


def is_beyond(text: str) -> bool:
    """Whether a text such as 12E45 is a number, but beyond those that a label may be; not so digits alone."""
    digits = text.lstrip("+-").isdecimal()
    return not digits and bool(_NUMBER.fullmatch(text)) and abs(float(text)) >= FARTHEST


def label_key(name: str) -> str:
    """What a class's name has in common with every cell that means it, as +1, 1 and 1.0 do."""
    try:
        value = label_value(name)
    except (ValueError, OverflowError):  # no cell means it
        return name
    return name if value is None else str(value)


def alike_labels(names: Sequence[str]) -> list[str]:
    """The first names that are one label, such as 1 and +1; none where all are different."""
    keys = [label_key(name) for name in names]
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    return [name for name, key in zip(names, keys, strict=True) if key == twice]


def spelled_label(value: Any) -> str:
    """A label as the data spell it: a text without spaces around it, and of numbers the plainest one."""
    return value.strip() if isinstance(value, str) else str(label_value(value))


@lru_cache(maxsize=64)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    """The `label_key` of each class -> its number."""
    return {label_key(name): number for number, name in enumerate(names)}


def infer_labels(
    found: Counter, declared: Sequence[str], spec: TableSpec, place: str, spelled: Mapping[Any, str] | None = None
) -> Labels:
    """The labels of a training set.

    found: each different `label_value` -> how many there are; declared: the classes that the data set declares; spec:
    what the user says; place: file and column, for messages; spelled: `label_value` -> how the data spell it, where
    they do otherwise. Texts, booleans and up to `MOST_WHOLE_NUMBERS` different whole numbers are classes in sorted
    order, two of them a binary task; other numbers are a score. Names are spelled as the user, the data set or the data
    do. InputError where they are one alone, or of both kinds.
    """
    numbers = [value for value in found if not isinstance(value, str)]
    fractions = [value for value in numbers if isinstance(value, float)]
    texts = [value for value in found if isinstance(value, str)]
    kind = spec.kind
    if not kind and not spec.labels and not declared and fractions and texts:
        raise InputError(
            f"{place}: labels are numbers such as {fractions[0]:g} and texts such as {shown(min(texts))}, expected one "
            'of them; kind = "regression" or kind = "classification" in a tasks.toml decides'
        )
    few = len(numbers) <= MOST_WHOLE_NUMBERS and not fractions
    if kind == "regression" or not (kind or spec.labels or declared or texts or few):
        return _score(numbers, spec, place)
    names = spec.labels or tuple(name.strip() or name for name in declared)
    if not names:
        ordered = sorted(found, key=str) if texts else sorted(found)
        names = tuple((spelled or {}).get(value, str(value)) for value in ordered)
    if len(names) < 2 or (kind == "binary" and len(names) != 2):
        there = one_line(", ".join(names[:5]), 100) or "none"
        expected = "two" if kind == "binary" else "two or more"
        raise InputError(
            f"{place}: {len(names)} different labels ({there}), expected {expected}; labels = [...] in a tasks.toml "
            "names those that it may have"
        )
    kind = kind or ("binary" if len(names) == 2 else "classification")
    return Labels(kind, names, 0.0, max(1.0, len(names) - 1.0))


def _score(numbers: Sequence[float], spec: TableSpec, place: str) -> Labels:
    if not numbers:
        raise InputError(f"{place}: no label is a number, expected numbers for kind regression")
    low = float(min(numbers)) if spec.low is None else spec.low
    high = float(max(numbers)) if spec.high is None else spec.high
    if not low < high:
        raise InputError(f"{place}: labels from {low:g} to {high:g}, expected a range; keys low and high say")
    return Labels("regression", (), low, high)


def label_number(
    value: Any, kind: str, names: Sequence[str], column: str, low: float, high: float, *, suggest: bool = True
) -> float:
    """A cell as what a head is trained towards: a class's number, or the score; ValueError that says what is wrong.

    low, high: of the scores of a training set; -inf and inf for a set that is only compared with. suggest: whether the
    message names a class that may be meant.
    """
    try:
        label = label_value(value)
    except UnicodeEncodeError:
        raise ValueError(f"{column} has half of a surrogate pair, expected whole characters") from None
    except ValueError:
        raise ValueError(f"{column} is {shown(value)}, expected a text or a number") from None
    if label is None:
        raise ValueError(f"{column} is empty, expected a label")
    if kind == "regression":
        if isinstance(label, str):
            within = f" within {FARTHEST:g} of 0" if is_beyond(label) else ""
            raise ValueError(f"{column} is {shown(label)}, expected a number{within}")
        if not low <= label <= high:
            raise ValueError(f"{column} is {label:g}, expected a number from {low:g} to {high:g}")
        return float(label)
    place = _places(tuple(names)).get(str(label))
    if place is None:
        spelled = spelled_label(value)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        known = ", ".join(one_line(name, 40) for name in names[:_NAMED]) + more
        near = suggestion(spelled, names) if suggest else ""
        raise ValueError(
            f"{column} is {shown(spelled, 40)}, which the training set has not, expected one of {known}{near}"
        )
    return float(place)


def describe_labels(kind: str, names: Sequence[str], labels: Sequence[float], low: float, high: float) -> str:
    """A task's kind and labels in a phrase, with how many examples each has; labels: of the training set."""
    if kind == "regression":
        return f"regression from {low:g} to {high:g}"
    counts = Counter(labels)
    shares = [f"{one_line(name, 30)} {counts[number]}" for number, name in enumerate(names[:_SHOWN])]
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{kind}, {len(names)} labels: {', '.join(shares)}{more}"
