"""Drawings as SVG, for a page that brings its colours along: curves, bars and maps of cells.

They are XML. Texts are escaped; coordinates are rounded to what can be seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from concord.bert.errors import visible

WIDTH = 400  # units; a figure is drawn as wide on a phone, and the letters have their size there
_LEFT, _RIGHT, _TOP, _BELOW = 48, 8, 8, 22
_SCALE = 1000  # of the coordinates within a plot
_MARGIN = 0.04  # of the range, above and below the curves


@dataclass(frozen=True)
class Curve:
    """A line of a plot.

    Attributes:
        name: for the legend; hue: number of its colour.
        x, y: float64 [n]; NaN in y is a gap.
        faint: whether it stays behind the others.
        dots: whether its points are marked.
    """

    name: str
    hue: int
    x: np.ndarray
    y: np.ndarray
    faint: bool = False
    dots: bool = False


def plot(
    label: str,
    curves: Sequence[Curve],
    bands: Sequence[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = (),
    *,
    height: int = 200,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Curves over a grid with numbers at its lines; a script can read and zoom them.

    bands: hue, x, low and high of what lies behind the curves.
    """
    x0, x1 = x_range or extent([curve.x for curve in curves])
    if y_range is None:
        low, high = extent([curve.y for curve in curves] + [edge for band in bands for edge in band[2:]])
        y_range = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    y0, y1 = y_range
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, height - _TOP - _BELOW

    def points(x: np.ndarray, y: np.ndarray) -> str:
        across, up = (x - x0) / (x1 - x0) * _SCALE, (y1 - y) / (y1 - y0) * _SCALE
        return " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(across, np.clip(up, -9999, 9999), strict=True))

    parts = [_opening(label, height)]
    for value in ticks(y0, y1):
        y = _TOP + (y1 - value) / (y1 - y0) * inner_height
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{inner_width}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 5}" y="{y + 4:.1f}">{short(value)}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, anchor = _LEFT + share * inner_width, {0.0: "start", 1.0: "end"}.get(share, "middle")
        value = x0 + share * (x1 - x0)
        text = short(round(value) if x1 - x0 >= 10 else value)
        parts.append(f'<text class="x {anchor}" data-share="{share}" x="{x:.0f}" y="{height - 6}">{text}</text>')
    parts.append(
        f'<svg class="plot" x="{_LEFT}" y="{_TOP}" width="{inner_width}" height="{inner_height}" '
        f'viewBox="0 0 {_SCALE} {_SCALE}" preserveAspectRatio="none" data-range="{x0:.9g} {x1:.9g} {y0:.9g} {y1:.9g}">'
    )
    for hue, x, low, high in bands:
        kept = np.isfinite(low) & np.isfinite(high)
        edge = points(np.concatenate([x[kept], x[kept][::-1]]), np.concatenate([high[kept], low[kept][::-1]]))
        parts.append(f'<polygon class="h{hue % 8} band" points="{edge}"/>')
    for curve in sorted(curves, key=lambda curve: not curve.faint):
        parts += _lines(curve, points)
    return Markup("".join([*parts, "</svg></svg>"]))


def _lines(curve: Curve, points: object) -> list[str]:
    """The unbroken parts of a curve."""
    finite = np.isfinite(curve.y)
    cuts = np.flatnonzero(~finite)
    style = f"h{curve.hue % 8}{' faint' if curve.faint else ''}"
    found = []
    for part in np.split(np.arange(len(curve.y)), cuts):
        own = part[finite[part]]
        if len(own):
            text = points(curve.x[own], curve.y[own])
            # A lone point is a line to itself, whose round ends are a dot.
            text += f" {text}" if len(own) == 1 else ""
            found.append(f'<polyline class="{style}" data-name="{_text(curve.name)}" points="{text}"/>')
            if curve.dots:
                dots = "".join(f"M{point.replace(',', ' ')}h0" for point in text.split(" "))
                found.append(f'<path class="{style} dots" d="{dots}"/>')
    return found


def bars(label: str, rows: Mapping[str, float], *, unit: str = "") -> Markup:
    """Horizontal bars from 0, a row each: its name, the bar, its number."""
    height, most = 18 * len(rows) + 4, max([*map(abs, rows.values()), 1e-12])
    parts = [_opening(label, height)]
    for place, (name, value) in enumerate(rows.items()):
        y, length = 18 * place + 2, 190 * abs(value) / most
        shown = f"{value:.0%}" if unit == "%" else short(value)
        parts.append(f'<text class="end" x="146" y="{y + 12}">{_text(name, 24)}</text>')
        parts.append(f'<rect class="h0 bar" x="152" y="{y + 1}" width="{max(length, 0.5):.1f}" height="14"/>')
        parts.append(f'<text x="{157 + length:.0f}" y="{y + 12}">{shown}</text>')
    return Markup("".join([*parts, "</svg>"]))


def histogram(label: str, edges: np.ndarray, groups: Sequence[np.ndarray], height: int = 170) -> Markup:
    """Counts beside one another in each bin: edges [bins + 1], groups each [bins]."""
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, height - _TOP - _BELOW
    most = max(1, *(int(group.max(initial=0)) for group in groups))
    parts = [_opening(label, height)]
    for value in ticks(0, most):
        y = _TOP + (1 - value / most) * inner_height
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{inner_width}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 5}" y="{y + 4:.1f}">{short(value)}</text>')
    width = inner_width / (len(edges) - 1)
    for hue, group in enumerate(groups):
        own = (width - 1) / len(groups)
        for place, count in enumerate(group):
            tall = inner_height * int(count) / most
            if count:
                x = _LEFT + place * width + hue * own
                box = f'x="{x:.1f}" y="{_TOP + inner_height - tall:.1f}" width="{own:.1f}" height="{tall:.1f}"'
                range_ = f"{short(edges[place])} to {short(edges[place + 1])}"
                parts.append(f'<rect class="h{hue % 8} bar" {box}><title>{range_}: {count}</title></rect>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        value = edges[0] + share * (edges[-1] - edges[0])
        parts.append(
            f'<text class="{anchor}" x="{_LEFT + share * inner_width:.0f}" y="{height - 6}">{short(value)}</text>'
        )
    return Markup("".join([*parts, "</svg>"]))


def heat(label: str, names: Sequence[str], edges: np.ndarray, values: np.ndarray, largest: float) -> Markup:
    """A map of cells: values [columns, rows] from -largest to largest, NaN for none; red below 0, blue above.

    names: of the rows; edges: [columns + 1], evenly spaced steps. A path holds all cells of a colour, so that a map of
    thousands stays small; a script reads the numbers.
    """
    row = 13 if len(names) <= 40 else 5
    left, height = 104, row * len(names) + 24
    levels = np.where(np.isfinite(values), np.rint(values / largest * 10), 99).astype(int)
    parts = [_opening(label, height)]
    every = -(-10 // row)  # so that names do not lie on one another
    for place, name in enumerate(names):
        if place % every == 0:
            parts.append(f'<text class="end" x="{left - 4}" y="{row * place + 11}">{_text(name, 17)}</text>')
    numbers = " ".join("" if math.isnan(value) else f"{value * 100:.0f}" for value in values.T.ravel()).replace(
        " ", ","
    )
    columns = len(edges) - 1
    parts.append(
        f'<svg class="map" x="{left}" y="0" width="{WIDTH - left - 2}" height="{row * len(names)}" '
        f'viewBox="0 0 {columns} {len(names)}" preserveAspectRatio="none" data-values="{numbers}" '
        f'data-names="{_text("|".join(name.replace("|", "/") for name in names))}" data-last="{edges[-1]:.0f}">'
    )
    for level in np.unique(levels):
        if level == 99:
            continue
        where = np.argwhere(levels == level)
        path = "".join(f"M{x} {y}h1v1h-1z" for x, y in where)
        style = "cold" if level > 0 else "hot"
        parts.append(f'<path class="{style}" fill-opacity="{abs(level) / 10:g}" d="{path}"/>')
    parts.append("</svg>")
    parts.append(f'<rect class="frame" x="{left}" y="0" width="{WIDTH - left - 2}" height="{row * len(names)}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = left + share * (WIDTH - left - 2)
        parts.append(f'<text class="{anchor}" x="{x:.0f}" y="{height - 8}">{short(round(share * edges[-1]))}</text>')
    return Markup("".join([*parts, "</svg>"]))


def scatter(label: str, x: np.ndarray, y: np.ndarray, low: float, high: float) -> Markup:
    """Points in a square of [low, high] with its diagonal."""
    diagonal = Curve("equal", 7, np.array([low, high]), np.array([low, high]), faint=True)
    drawn = plot(label, [diagonal], height=250, x_range=(low, high), y_range=(low, high))
    across, up = (x - low) / (high - low) * _SCALE, (high - y) / (high - low) * _SCALE
    dots = "".join(f"M{a:.0f} {b:.0f}h0" for a, b in zip(across, up, strict=True))
    path = f'<path class="h0 cloud" d="{dots}"/>'
    return Markup(str(drawn).removesuffix("</svg></svg>") + path + "</svg></svg>")


def _opening(label: str, height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{_text(label)}">'


def extent(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The finite extremes, half a value to either side where there is one alone, and half of 1 where that is 0."""
    finite = np.concatenate([own[np.isfinite(own)] for own in values] or [np.zeros(1)])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low == high:
        half = 0.5 * (abs(low) or 1.0)
        return low - half, high + half
    return low, high


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range, about four."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (5, 2, 1) if factor * step <= (high - low) / 2.5 or factor == 1)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, first + 12) if step * n <= high + 1e-9 * step]


def short(value: float) -> str:
    """A number in few characters."""
    value = 0.0 if abs(value) < 1e-12 else value
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k" if abs(value) < 1e6 else f"{value:.3g}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.4g}" if abs(value) >= 1 or not value else f"{value:.3g}"


def _text(text: str, most: int | None = None) -> Markup:
    """A text of XML, with escapes for what nobody sees, and cut where it has more than `most` characters."""
    text = visible(text)
    return escape(text if most is None or len(text) <= most else f"{text[: most - 1]}\u2026")
