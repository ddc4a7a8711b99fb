"""Runs compared example by example on the dev set that all answered: a difference, and a bootstrap interval."""

from collections import Counter
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
            (Efron, "Bootstrap methods: another look at the jackknife", 1979), but for draws of which the metric is
            undefined.
        examples: how many all answered; of_examples: of so many in the largest of their dev sets.
    """

    metric: str
    value: float
    low: float
    high: float
    examples: int
    of_examples: int


def difference(task: Task, first: Sequence[DevAnswers], second: Sequence[DevAnswers]) -> Difference | None:
    """The difference in a task's main metric, `second` minus `first`; None where they have no example in common, or
    none by which the metric is defined.

    Each of the two is the answers of one run, or of runs that differ in their seed alone, whose metrics are averaged.
    Examples are the same where texts and gold label are (of runs of before texts were kept, id and gold label), one by
    one where several are; and the draws take the same examples for all runs: what all get wrong alike does not widen
    the interval. Of several seeds the draws take runs with replacement, too, so that the interval has the chance of the
    seed in it. The draws are the same each time.
    """
    rows = _in_common([*first, *second])
    count = len(rows[0])
    if not count:
        return None
    metric, gold = main_metric(task), first[0].gold[rows[0]]
    measure, of_scores = METRICS.resolve(metric), METRICS.entry(metric).of_scores
    judged = [
        (own.scores if of_scores else own.predicted)[places]
        for own, places in zip([*first, *second], rows, strict=True)
    ]
    ours, theirs = judged[: len(first)], judged[len(first) :]

    def gain(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], chosen: np.ndarray) -> float | None:
        # Whether a metric is defined depends on the gold labels alone, which are the same for all runs.
        found = [[measure(own[chosen], gold[chosen]) for own in runs] for runs in (ours, theirs)]
        return None if None in found[0] else float(np.mean(found[1]) - np.mean(found[0]))

    value = gain(ours, theirs, np.arange(count))
    if value is None:
        return None
    draws, gains = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = draws.integers(count, size=count)
        theirs_drawn, ours_drawn = _drawn(theirs, draws), _drawn(ours, draws)
        gains.append(gain(ours_drawn, theirs_drawn, chosen))
    low, high = np.quantile([own for own in gains if own is not None], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Difference(metric, value, float(low), float(high), count, max(len(own.ids) for own in [*first, *second]))


def _drawn(runs: Sequence[np.ndarray], draws: np.random.Generator) -> Sequence[np.ndarray]:
    """As many of several runs, with replacement; the run itself where there is one."""
    return runs if len(runs) == 1 else [runs[place] for place in draws.integers(len(runs), size=len(runs))]


def _in_common(answers: Sequence[DevAnswers]) -> list[np.ndarray]:
    """The rows of the examples that all have, in the numbering of each, int64."""
    by_texts = all(own.texts for own in answers)
    places = [_places(own.texts if by_texts else own.ids, own.gold) for own in answers]
    kept = [key for key in places[0] if all(key in own for own in places[1:])]
    return [np.array([own[key] for key in kept], dtype=np.int64) for own in places]


def _places(names: Sequence[str], gold: np.ndarray) -> dict[tuple[str, float, int], int]:
    """What an example is called, its label and how many such stand before it -> its row."""
    before: Counter[tuple[str, float]] = Counter()
    found = {}
    for row, key in enumerate(zip(names, gold.tolist(), strict=True)):
        found[*key, before[key]] = row
        before[key] += 1
    return found
