"""The results of the benchmarks as PNG: bars against the peers, a roofline, and how time scales."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import matplotlib

from bench.result_files import Comparison, Row

matplotlib.use("Agg")  # the plots are written, never shown
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

AXES = ("tokens", "tasks", "parameters")  # what time may scale with
_PANELS = 3  # beside one another

Point = tuple[str, float, float]  # of which line, x, y


def draw_plots(devices: dict[str, list[Comparison]], directory: Path) -> list[Path]:
    """Draw each device's bars, roofline and scaling as PNG, where it has rows for them; returns the paths."""
    paths = []
    for device, comparisons in devices.items():
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        figures = {"steps": _bars(comparisons), "roofline": _roofline(comparisons)}
        figures |= {f"scaling-{axis}": _scaling(comparisons, axis) for axis in AXES}
        for name, figure in figures.items():
            if figure:
                figure.suptitle(device)
                paths.append(directory / f"{slug}-{name}.png")
                figure.savefig(paths[-1], dpi=120)
                pyplot.close(figure)
    return paths


def _bars(comparisons: list[Comparison]) -> Figure | None:
    """Concord against its peers, a panel a training step."""
    steps = [c for c in comparisons if c.concord.group == "step" and len(c.comparable()) > 1]
    if not steps:
        return None
    figure, panels = _panels(len(steps))
    for axes, step in zip(panels, steps, strict=True):
        rows = step.comparable()
        bars = axes.barh(list(rows), [row.median for row in rows.values()], color=["C0", *["C7"] * (len(rows) - 1)])
        axes.bar_label(bars, [row.time_text()[0] for row in rows.values()], padding=3, fontsize="small")
        axes.margins(x=0.25)
        axes.invert_yaxis()
        axes.set_title(f"{step.concord.name}\n{step.concord.case_text()}", fontsize="small")
        axes.set_xlabel("seconds")
    return figure


def _roofline(comparisons: list[Comparison]) -> Figure | None:
    """The kernels' shares of the device's limit over their tokens."""
    rows = [c.concord for c in comparisons if c.concord.group == "kernels" and c.concord.floor is not None]
    points = []
    for name in dict.fromkeys(row.name for row in rows):
        for label, tokens, row in _along([row for row in rows if row.name == name], "tokens"):
            points.append((f"{name} {label}".strip(), tokens, 100 * row.floor / row.median))
    if not points:
        return None
    figure, axes = pyplot.subplots(figsize=(10, 6), layout="constrained")
    _draw(axes, points)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens")
    axes.set_ylabel("% of the limit")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _scaling(comparisons: list[Comparison], axis: str) -> Figure | None:
    """Seconds over tokens, tasks or parameters: a panel a measurement that was taken at several of them."""
    drawn: dict[str, list[Point]] = {}
    for name in dict.fromkeys((c.concord.group, c.concord.name) for c in comparisons):
        members = [c.comparable() for c in comparisons if (c.concord.group, c.concord.name) == name]
        points = []
        for peer in dict.fromkeys(peer for rows in members for peer in rows):
            for label, x, row in _along([rows[peer] for rows in members if peer in rows], axis):
                points.append((f"{peer} {label}".strip(), x, row.median))
        # A line needs two points.
        several = {label for label, x, _ in points if any(x != other for line, other, _ in points if line == label)}
        if several:
            drawn[": ".join(name)] = [point for point in points if point[0] in several]
    if not drawn:
        return None
    figure, panels = _panels(len(drawn))
    for axes, (title, points) in zip(panels, drawn.items(), strict=True):
        _draw(axes, points)
        axes.set_title(title, fontsize="small")
        axes.set_xlabel(axis)
        axes.set_ylabel("seconds")
        if axis == "tasks":
            axes.set_ylim(bottom=0)
        else:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.legend(fontsize="x-small")
    return figure


def _along(rows: list[Row], axis: str) -> list[tuple[str, float, Row]]:
    """The rows that have a number on `axis`, with it, and named by what stays the same along it.

    What goes up and down with the axis one to one (a model with its parameters, say) names no line of its own.
    """
    placed = [(row.case.get(axis, row.extra.get(axis)), row) for row in rows]
    placed = [(x, row) for x, row in placed if isinstance(x, int | float)]
    positions = {x for x, _ in placed}
    keys = dict.fromkeys(key for _, row in placed for key in row.case)
    together = set()
    for key in keys:
        pairs = {(x, str(row.case.get(key))) for x, row in placed}
        values = {value for _, value in pairs}
        # One value everywhere tells nothing apart either.
        if len(values) == 1 or len(pairs) == len(values) == len(positions):
            together.add(key)
    named = [replace(row, case={k: v for k, v in row.case.items() if k not in together}) for _, row in placed]
    return [(name.case_text(), x, row) for name, (x, row) in zip(named, placed, strict=True)]


def _draw(axes: Axes, points: Iterable[Point]) -> None:
    """A line a label, in the order in which the labels come."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for label, x, y in points:
        lines.setdefault(label, []).append((x, y))
    for index, (label, line) in enumerate(lines.items()):
        style = ("-", "--", ":", "-.")[index // 10 % 4]  # there are ten colours
        axes.plot(*zip(*sorted(line), strict=True), marker="o", linestyle=style, label=label)
    axes.grid(alpha=0.3)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows."""
    across = min(count, _PANELS)
    down = -(-count // across)
    figure, panels = pyplot.subplots(
        down, across, figsize=(5 * across, 3.5 * down + 0.4), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    return figure, list(panels.flat[:count])
