"""One number of several runs that differ in their seed alone: mean, deviation, and an interval of the mean."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

COVERAGE = 0.95
_POINTS = 100_001  # of the integral of Student's density; the quantile's relative error is below 1e-6


@dataclass(frozen=True)
class Spread:
    """What several runs have of one number.

    Attributes:
        values: of the runs that have it, in their order.
        mean: of them.
        deviation: of a sample, with n - 1 in the denominator; None for fewer than two values.
        low, high: the interval of `COVERAGE` for the mean by Student's t distribution (Student, "The probable error of
            a mean", 1908); None for fewer than two values. It takes the runs for draws from a normal distribution.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """The spread of the numbers among `values`; None where there is none."""
    found = tuple(float(value) for value in values if value is not None and math.isfinite(value))
    if not found:
        return None
    mean = math.fsum(found) / len(found)
    if len(found) == 1:
        return Spread(found, mean, None, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1))
    half = t_quantile(len(found) - 1) * deviation / math.sqrt(len(found))
    return Spread(found, mean, deviation, mean - half, mean + half)


def t_quantile(freedom: int) -> float:
    """The number below which Student's t of so many degrees of freedom, at least 1, lies with probability
    (1 + `COVERAGE`) / 2.

    With t = sqrt(freedom) tan(angle) the density of the angle is that of cos(angle)^(freedom - 1), which is smooth and
    bounded, so that the trapezoid rule does.
    """
    angles = np.linspace(0.0, np.pi / 2, _POINTS)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(COVERAGE, below / below[-1], angles)))
