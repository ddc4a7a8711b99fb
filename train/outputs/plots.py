"""The pictures of a run, as PNG: its curves, and a map of conflicts by layer and pair of tasks over its steps."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from concord.bert.files import replacing

CURVES_FILE, CONFLICTS_FILE = "curves.png", "conflicts.png"
_COLUMNS = 60  # of the map of conflicts, over the whole run
_PANELS = 3  # beside one another
_SMOOTHING = 0.8  # weight of the past in the bold loss lines; the raw values stay behind them

Series = dict[str, list[tuple[int, float]]]


def plot_curves(entries: Sequence[Mapping[str, Any]], directory: Path) -> Path:
    """Draw curves.png in `directory` from the entries of a run's metrics.jsonl; returns its path."""
    steps = [entry for entry in entries if entry["event"] == "step"]
    losses = _series((entry["step"], entry["losses"]) for entry in steps)
    conflicts = _series((entry["step"], entry["cosines"]) for entry in steps)
    dev = _series(
        (entry["step"], {f"{task} {name}": value for task, row in entry["dev"].items() for name, value in row.items()})
        for entry in entries
        if entry["event"] == "evaluation"
    )
    # A figure of its own: pyplot would look for a window, and takes a while to import.
    figure = Figure(figsize=(9, 11), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    _draw(top, losses, "training loss", smooth=True)
    _draw(middle, dev, "dev metric", marker="o")
    _draw(bottom, conflicts, "cosine of task gradients", smooth=True)
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_xlabel("step")
    return _save(figure, directory / CURVES_FILE)


def plot_conflicts(entries: Sequence[Mapping[str, Any]], directory: Path) -> Path | None:
    """Draw conflicts.png in `directory` from the entries of a run's metrics.jsonl; returns its path, or None where no
    two tasks ever met.

    A panel a pair, a row a block of parameters, a column a stretch of steps; the colour is the mean cosine of the two
    task gradients, none where they never met, and the row's name ends with the share of their meetings in which they
    conflicted.
    """
    steps = [entry for entry in entries if entry["event"] == "step" and entry["applied_steps"]]
    pairs = list(dict.fromkeys(pair for entry in steps for pair in entry["cosines"]))
    if not pairs:
        return None
    blocks = list(steps[0]["conflicts"])
    columns = min(len(steps), _COLUMNS)
    # Entries hold sums from the start: the difference between two is what happened in between.
    bounds = np.unique(np.linspace(0, len(steps), columns + 1).round().astype(int))
    means = {pair: _mean_cosines(steps, blocks, pair, bounds) for pair in pairs}
    across = min(len(pairs), _PANELS)
    down = -(-len(pairs) // across)
    size = (4.5 * across + 1, (0.22 * len(blocks) + 1.2) * down + 0.4)
    largest = max(0.1, *(np.nanmax(np.abs(own), initial=0) for own in means.values()))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    for panel, pair in zip(panels.flat, pairs, strict=False):
        edges = [0, *(steps[bound - 1]["step"] for bound in bounds[1:])]
        rows = np.arange(len(blocks) + 1)
        mesh = panel.pcolormesh(edges, rows, means[pair].T, cmap="RdBu", vmin=-largest, vmax=largest)
        names = [f"{block}  {_share(steps[-1]['conflicts'][block][pair])}" for block in blocks]
        panel.set_yticks(rows[:-1] + 0.5, names, fontsize="x-small")
        panel.invert_yaxis()
        panel.set_title(pair, fontsize="small")
        panel.set_xlabel("step", fontsize="small")
    for panel in panels.flat[len(pairs) :]:
        panel.set_visible(False)
    figure.colorbar(mesh, ax=panels, label="mean cosine")
    return _save(figure, directory / CONFLICTS_FILE)


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120, format="png")
    return path


def _mean_cosines(steps: list[dict[str, Any]], blocks: list[str], pair: str, bounds: np.ndarray) -> np.ndarray:
    """The mean cosine of a pair's gradients between the logged steps at `bounds`, NaN where they never met there.

    [bounds - 1, blocks]; a bound of 0 is before the first logged step.
    """
    begin = np.zeros((1, len(blocks), 2))
    sums = np.concatenate([begin, [[entry["conflicts"][block][pair][1:] for block in blocks] for entry in steps]])
    cosines, meetings = np.moveaxis(np.diff(sums[bounds], axis=0), 2, 0)
    return np.where(meetings > 0, cosines / np.maximum(meetings, 1), np.nan)


def _share(sums: list[float]) -> str:
    """In which share of their meetings a pair conflicted."""
    conflicts, _, meetings = sums
    return f"{conflicts / meetings:.0%}" if meetings else "-"


def _series(rows: Iterable[tuple[int, dict[str, float | None]]]) -> Series:
    """Name -> its points; NaN, which leaves a gap, where a row has no number."""
    series: Series = defaultdict(list)
    for step, values in rows:
        for name, value in values.items():
            series[name].append((step, math.nan if value is None else value))
    return series


def _draw(axes: Axes, series: Series, label: str, *, smooth: bool = False, marker: str | None = None) -> None:
    for index, (name, points) in enumerate(series.items()):
        steps, values = zip(*points, strict=True)
        colour = f"C{index}"
        if smooth:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            values = _smoothed(values)
        axes.plot(steps, values, color=colour, label=name, marker=marker)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize="small")


def _smoothed(values: Iterable[float]) -> list[float]:
    """The exponential moving average, corrected for its start at zero. Values that are not finite leave it as it is."""
    average, weight, result = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * value
            weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        result.append(average / weight if weight else math.nan)
    return result
