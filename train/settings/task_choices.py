"""What a task's table may say of the metric that it is judged by and of its class weights."""

from collections.abc import Collection
from textwrap import shorten

from concord.bert.errors import shown
from concord.train.settings.tables import METRICS

BALANCED = "balanced"
ClassWeights = str | dict[str, float]
"""`BALANCED`, or label -> weight."""
CLASS_WEIGHTS = f"{BALANCED}, or a number for each label"
"""What a message says is expected of class weights."""
_HIGHEST = 1e18  # of a weight, so that its product with a loss is finite in fp32


def problems(kind: str, metric: str | None, weights: ClassWeights | None, labels: Collection[str]) -> list[str]:
    """What is wrong with the metric and the class weights of a task of this kind with these labels, a phrase each."""
    return list(filter(None, (_metric_problem(kind, metric), _class_weights_problem(kind, weights, labels))))


def class_weights_of(value: object) -> ClassWeights | None:
    """The class weights that a value of a table is meant to give, None where it can give none."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not value or any(type(weight) not in (int, float) for weight in value.values()):
        return None
    if any(type(weight) is int and abs(weight) > _HIGHEST for weight in value.values()):
        return None
    return {str(label): float(weight) for label, weight in value.items()}


def _metric_problem(kind: str, metric: str | None) -> str:
    fitting = [entry.name for entry in METRICS if kind in entry.kinds]
    if metric is None or metric in fitting:
        return ""
    return f"metric is {shown(metric)}, expected one of {', '.join(fitting)} for kind {kind}"


def _class_weights_problem(kind: str, weights: ClassWeights | None, labels: Collection[str]) -> str:
    if weights is None:
        return ""
    if kind == "regression":
        return "class_weights are given, expected none for kind regression, whose labels are no classes"
    if isinstance(weights, str):
        known = weights == BALANCED
        return "" if known else f"class_weights is {shown(weights)}, expected {CLASS_WEIGHTS}"
    for label, weight in weights.items():
        if label not in labels:
            some = shorten(", ".join(labels), 200, placeholder=" ...")
            return f"class_weights has the label {shown(label)}, expected some of {some}"
        if not 0 <= weight <= _HIGHEST:
            return f"class_weights gives {shown(label)} {weight:g}, expected a number from 0 to {_HIGHEST:g}"
    if not any(weights.get(label, 1.0) for label in labels):
        return "class_weights is 0 for every label, expected a number above 0 for one at least"
    return ""
