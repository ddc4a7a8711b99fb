"""Two runs compared example by example on the dev set that both answered: a difference, and a bootstrap interval."""

from dataclasses import dataclass

import numpy as np

from concord.train.data.tasks import Task
from concord.train.objectives.metrics import main_metric
from concord.train.outputs.dev_answers import DevAnswers
from concord.train.settings.tables import METRICS

RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class Difference:
    """By how much a task's main metric of one run differs from that of another.

    Attributes:
        metric: its name.
        value: of the second run minus that of the first, on the examples that both answered.
        low, high: the percentile interval of `COVERAGE` over `RESAMPLES` draws of those examples with replacement
            (Efron, "Bootstrap methods: another look at the jackknife", 1979).
        examples: how many both answered.
    """

    metric: str
    value: float
    low: float
    high: float
    examples: int


def difference(task: Task, first: DevAnswers, second: DevAnswers) -> Difference | None:
    """The difference in a task's main metric, `second` minus `first`; None where they have no example in common.

    Examples are the same where id and gold label are, and the draws take the same examples for both runs: what both get
    wrong alike does not widen the interval. The draws are the same each time.
    """
    kept, others = _in_common(first, second)
    if not len(kept):
        return None
    metric, gold = main_metric(task), first.gold[kept]
    measure = METRICS.resolve(metric)
    ours, theirs = first.predicted[kept], second.predicted[others]

    def gain(rows: np.ndarray) -> float:
        return float(measure(theirs[rows], gold[rows]) - measure(ours[rows], gold[rows]))

    draws, count = np.random.default_rng(0), len(gold)
    gains = [gain(draws.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(gains, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Difference(metric, gain(np.arange(count)), float(low), float(high), count)


def _in_common(first: DevAnswers, second: DevAnswers) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the examples that both have, in either's numbering, int64."""
    places: dict[tuple[str, float], int] = {}
    for row, key in enumerate(zip(second.ids, second.gold, strict=True)):
        places.setdefault(key, row)
    found = [(row, places.pop(key)) for row, key in enumerate(zip(first.ids, first.gold, strict=True)) if key in places]
    rows = np.array(found, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
