"""Runs compared example by example on the dev set that all answered: a difference, and a bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concord.train.data.tasks import Task
from concord.train.objectives.metrics import main_metric
from concord.train.outputs.dev_answers import DevAnswers
from concord.train.reports.spread import COVERAGE
from concord.train.settings.tables import METRICS

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """By how much a task's main metric of one run differs from that of another.

    Attributes:
        metric: its name.
        value: of the second minus that of the first, on the examples that all answered.
        low, high: the percentile interval of `COVERAGE` over `RESAMPLES` draws of those examples with replacement
            (Efron, "Bootstrap methods: another look at the jackknife", 1979).
        examples: how many all answered.
    """

    metric: str
    value: float
    low: float
    high: float
    examples: int


def difference(task: Task, first: Sequence[DevAnswers], second: Sequence[DevAnswers]) -> Difference | None:
    """The difference in a task's main metric, `second` minus `first`; None where they have no example in common.

    Each of the two is the answers of one run, or of runs that differ in their seed alone, whose metrics are averaged.
    Examples are the same where id and gold label are, and the draws take the same examples for all runs: what all get
    wrong alike does not widen the interval. Of several seeds the draws take runs with replacement, too, so that the
    interval has the chance of the seed in it. The draws are the same each time.
    """
    rows = _in_common([*first, *second])
    count = len(rows[0])
    if not count:
        return None
    metric, gold = main_metric(task), first[0].gold[rows[0]]
    measure = METRICS.resolve(metric)
    predicted = [own.predicted[places] for own, places in zip([*first, *second], rows, strict=True)]
    ours, theirs = predicted[: len(first)], predicted[len(first) :]

    def mean(runs: Sequence[np.ndarray], chosen: np.ndarray) -> float:
        return float(np.mean([measure(own[chosen], gold[chosen]) for own in runs]))

    draws, gains = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = draws.integers(count, size=count)
        gains.append(mean(_drawn(theirs, draws), chosen) - mean(_drawn(ours, draws), chosen))
    low, high = np.quantile(gains, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    everything = np.arange(count)
    value = mean(theirs, everything) - mean(ours, everything)
    return Difference(metric, value, float(low), float(high), count)


def _drawn(runs: Sequence[np.ndarray], draws: np.random.Generator) -> Sequence[np.ndarray]:
    """As many of several runs, with replacement; the run itself where there is one."""
    return runs if len(runs) == 1 else [runs[place] for place in draws.integers(len(runs), size=len(runs))]


def _in_common(answers: Sequence[DevAnswers]) -> list[np.ndarray]:
    """The rows of the examples that all have, in the numbering of each, int64."""
    places: list[dict[tuple[str, float], int]] = []
    for own in answers:
        found: dict[tuple[str, float], int] = {}
        for row, key in enumerate(zip(own.ids, own.gold, strict=True)):
            found.setdefault(key, row)
        places.append(found)
    kept = [key for key in places[0] if all(key in own for own in places[1:])]
    return [np.array([own[key] for key in kept], dtype=np.int64) for own in places]
