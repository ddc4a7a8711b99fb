"""The threshold above which a binary task's answer is 1, chosen on a set by the metric that the task is judged by."""

from collections.abc import Callable

import numpy as np

_Counts = np.ndarray


def best_threshold(scores: np.ndarray, labels: np.ndarray, metric: str = "accuracy") -> float:
    """The threshold that gives `scores > threshold` its highest metric: 0.5 if it does, else the nearest one to it.

    scores: [n], at least one, which fp32 holds; labels: 0 or 1, [n]; metric: a name in `METRICS`. One that no threshold
    changes, as it is of scores, stands for accuracy. The threshold is one of fp32: 0.5, halfway between two
    neighbouring scores, right below the first or at the last.
    """
    order = np.argsort(scores, kind="stable")
    values, ones = scores[order].astype(np.float32), labels[order] == 1
    # Element k of each: how many there are if the k lowest scores mean 0 and the others 1.
    hits = np.concatenate([np.cumsum(ones[::-1])[::-1], [0]])
    rejections = np.concatenate([[0], np.cumsum(~ones)])
    reached = _OF_COUNTS[metric](hits, rejections[-1] - rejections, hits[0] - hits, rejections)
    below, above = values[:-1], values[1:]
    reached[1:-1][below == above] = -np.inf  # no threshold lies between equal scores
    if reached[np.searchsorted(values, np.float32(0.5), side="right")] == reached.max():
        return 0.5
    middles = below + (above - below) / 2
    middles = np.where(middles < above, middles, below)  # rounding must not raise it to the score above
    cuts = np.concatenate([[np.nextafter(values[0], np.float32(-np.inf))], middles, values[-1:]])
    best = cuts[reached == reached.max()]
    return float(best[np.abs(best - 0.5).argmin()])


# Each is (hits, false alarms, misses, rejections), int64 [thresholds] -> float64 [thresholds], what the metric of that
# name is of answers that were counted so.


def _accuracy(hits: _Counts, alarms: _Counts, misses: _Counts, rejections: _Counts) -> np.ndarray:
    return (hits + rejections).astype(np.float64)  # of as many answers each


def _f1(hits: _Counts, alarms: _Counts, misses: _Counts, rejections: _Counts) -> np.ndarray:
    return 2 * hits / np.maximum(2 * hits + alarms + misses, 1)


def _macro_f1(hits: _Counts, alarms: _Counts, misses: _Counts, rejections: _Counts) -> np.ndarray:
    ones = _f1(hits, alarms, misses, rejections)
    zeros = _f1(rejections, misses, alarms, hits)
    # A class that no label and no answer is does not count.
    there = np.minimum(hits + alarms + misses, 1) + np.minimum(rejections + alarms + misses, 1)
    return (ones + zeros) / there


def _mcc(hits: _Counts, alarms: _Counts, misses: _Counts, rejections: _Counts) -> np.ndarray:
    sides = [hits + alarms, hits + misses, rejections + alarms, rejections + misses]
    products = np.prod(np.stack(sides).astype(np.float64), axis=0)
    difference = hits.astype(np.float64) * rejections - alarms.astype(np.float64) * misses
    return np.where(products > 0, difference / np.sqrt(np.maximum(products, 1)), 0.0)


_OF_COUNTS: dict[str, Callable[..., np.ndarray]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro-f1": _macro_f1,
    "mcc": _mcc,
    "roc-auc": _accuracy,
}
