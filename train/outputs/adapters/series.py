"""The flat names by which other tools get a run's numbers."""

import math
from collections.abc import Mapping
from typing import Any

from concord.train.outputs.log import conflict_shares


def step_series(entry: Mapping[str, Any], speed: float) -> dict[str, float]:
    """The numbers of a logged step, as they stand in metrics.jsonl; conflicts are shares of the steps so far in which
    both tasks had a gradient. Those that are not finite are left out."""
    found = {f"train/loss/{task}": value for task, value in entry["losses"].items()}
    found |= {f"train/gradient_norm/{task}": value for task, value in entry["gradient_norms"].items()}
    found |= {f"train/cosine/{pair}": value for pair, value in entry["cosines"].items()}
    found |= {f"conflicts/{pair}": share for pair, share in conflict_shares(entry).items()}
    found |= {"train/merged_norm": entry["merged_norm"], "lr/encoder": entry["learning_rate"]}
    found |= {"speed/examples_per_second": speed, "epoch": entry["epoch"] + 1}
    return _finite(found)


def score_series(dev: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """The numbers of an evaluation; undefined ones, and those that are not finite, are left out."""
    return _finite({f"eval/{task}/{name}": value for task, row in dev.items() for name, value in row.items()})


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
