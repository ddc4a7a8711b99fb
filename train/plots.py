"""The picture of a run: losses, dev metrics and pairwise gradient cosines over its steps, as PNG."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a training run has no window to draw in
from matplotlib import pyplot
from matplotlib.axes import Axes

from train.report import METRICS_FILE

CURVES_FILE = "curves.png"
_SMOOTHING = 0.8  # weight of the past in the bold loss lines; the raw values stay behind them

Series = dict[str, list[tuple[int, float]]]


def plot_curves(directory: Path) -> Path:
    """Draw curves.png from the run's metrics.jsonl; returns its path."""
    lines = (directory / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    steps = [entry for entry in entries if entry["event"] == "step"]
    losses = _series((entry["step"], entry["losses"]) for entry in steps)
    conflicts = _series((entry["step"], entry["cosines"]) for entry in steps)
    dev = _series(
        (entry["step"], {f"{task} {name}": value for task, row in entry["dev"].items() for name, value in row.items()})
        for entry in entries
        if entry["event"] == "evaluation"
    )
    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 11), sharex=True, layout="constrained")
    _draw(top, losses, "training loss", smooth=True)
    _draw(middle, dev, "dev metric", marker="o")
    _draw(bottom, conflicts, "cosine of task gradients", smooth=True)
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_xlabel("step")
    path = directory / CURVES_FILE
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _series(rows: Iterable[tuple[int, dict[str, float]]]) -> Series:
    series: Series = defaultdict(list)
    for step, values in rows:
        for name, value in values.items():
            series[name].append((step, value))
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
    """The exponential moving average, corrected for its start at zero."""
    average, weight, result = 0.0, 0.0, []
    for value in values:
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        result.append(average / weight)
    return result
