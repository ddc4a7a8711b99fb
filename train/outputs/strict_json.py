"""JSON as its standard has it, which knows no NaN and no infinity: null stands for numbers that are not finite."""

import json
import math
from typing import Any


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The JSON of a value, with null for each number in it that is not finite; indent: as of `json.dumps`."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
