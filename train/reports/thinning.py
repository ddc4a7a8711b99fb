"""Long series of numbers thinned to what can be seen: stretches of steps of equal length."""

from dataclasses import dataclass

import numpy as np

from concord.train.reports.stored_log import Column, StoredLog

MOST_POINTS = 300  # of a curve
_SMOOTHING = 0.8  # weight of the past in the bold lines


@dataclass(frozen=True)
class Thinned:
    """A series in stretches of equal length, of which those without a logged step are left out. Each float64 [n].

    Attributes:
        steps: the mean step of each stretch; values: its mean of the numbers that are finite, NaN where none is.
        low, high: its extremes.
    """

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def thin(column: Column, most: int = MOST_POINTS) -> Thinned:
    """A column in at most `most` stretches; as it is where it has no more numbers than that."""
    steps, values = column.steps, column.values
    if len(steps) <= most:
        return Thinned(steps, np.where(np.isfinite(values), values, np.nan), values, values)
    first, last = steps[0], steps[-1]
    places = np.minimum(((steps - first) * (most / max(last - first, 1))).astype(np.int64), most - 1)
    finite = np.isfinite(values)
    counts = np.bincount(places, minlength=most)
    good = np.bincount(places[finite], minlength=most)
    with np.errstate(invalid="ignore", divide="ignore"):
        middles = np.bincount(places, weights=steps, minlength=most) / counts
        means = np.bincount(places[finite], weights=values[finite], minlength=most) / good
    low, high = np.full(most, np.inf), np.full(most, -np.inf)
    np.minimum.at(low, places[finite], values[finite])
    np.maximum.at(high, places[finite], values[finite])
    kept = counts > 0
    return Thinned(*(own[kept] for own in (middles, means, np.where(good, low, np.nan), np.where(good, high, np.nan))))


def smoothed(values: np.ndarray) -> np.ndarray:
    """The exponential moving average of a curve [n], corrected for its start at zero. NaNs leave it as it is."""
    average = weight = 0.0
    result = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if np.isfinite(value):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * value
            weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        if weight:
            result[place] = average / weight
    return result


@dataclass(frozen=True)
class ConflictMap:
    """The mean cosines of the tasks' gradients over the run.

    Attributes:
        edges: float64 [columns + 1], steps, evenly spaced from 0 to the last one.
        cosines: float64 [columns, blocks, pairs], NaN where the two tasks did not meet.
        shares: float64 [columns, blocks, pairs], of their meetings in which they conflicted; NaN likewise.
    """

    edges: np.ndarray
    cosines: np.ndarray
    shares: np.ndarray


def conflict_map(log: StoredLog, most: int) -> ConflictMap | None:
    """The map in at most `most` columns of equal length, each with a logged step at least; None where nothing met.

    What is between two logged steps is the difference of their running sums, and counts where the later one lies.
    """
    steps, sums = log.sums
    if not len(steps) or not log.pairs or not sums[..., 2].any():
        return None
    gaps = np.diff(np.concatenate([[0], steps]))
    columns = int(np.clip(steps[-1] // gaps.max(), 1, most))
    edges = np.linspace(0, steps[-1], columns + 1)
    # The last logged step at or before each edge; the sums before the first are 0.
    at = np.searchsorted(steps, edges, side="right")
    begun = np.concatenate([np.zeros((1, *sums.shape[1:])), sums])
    conflicts, cosines, meetings = np.moveaxis(np.diff(begun[at], axis=0), 3, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ConflictMap(edges, cosines / meetings, conflicts / meetings)
