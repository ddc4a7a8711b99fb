"""The table and the plot of `bench.when_surgery_helps`: what each rule gains at a point, beside how tasks conflict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

from concord.bert.files import replacing

matplotlib.use("Agg")  # the plot is written, never shown
from matplotlib import pyplot

_PLAIN = "none"


def gains(runs: Sequence[Mapping[str, Any]], rule: str) -> tuple[float, float] | None:
    """By how much a rule changes the mean accuracy of the tasks at a point: the mean over the seeds that both were run
    with, and its standard deviation (0 for one seed). None where there is no such seed.

    runs: of the point.
    """
    by_seed = {name: {run["settings"]["seed"]: run["mean"] for run in of(runs, name)} for name in (_PLAIN, rule)}
    found = [value - by_seed[_PLAIN][seed] for seed, value in by_seed[rule].items() if seed in by_seed[_PLAIN]]
    return (mean(found), stdev(found) if len(found) > 1 else 0.0) if found else None


def of(runs: Sequence[Mapping[str, Any]], rule: str) -> list[Mapping[str, Any]]:
    """The runs with a rule."""
    return [run for run in runs if run["settings"]["surgery"] == rule]


def points(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    """Axis and value -> the runs there, in the order in which they were made."""
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault((run["axis"], run["value"]), []).append(run)
    return found


def points_table(command: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown, with what made it."""
    places = sorted({f"{run['device']}, {run['precision']}, torch {run['versions']['torch']}" for run in runs})
    commits = sorted({run["commit"][:7] + run["commit"][40:] for run in runs if run["commit"]})
    rules = [name for name in dict.fromkeys(run["settings"]["surgery"] for run in runs) if name != _PLAIN]
    header = ["axis", "value", "seeds", "cosine", "conflicts", "mean accuracy without surgery"]
    header += [f"{rule}: gain (deviation)" for rule in rules]
    lines = [f"`{command}`, {', '.join(places)}, at commit {' and '.join(commits)}.", ""]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for (axis, value), own in points(runs).items():
        plain = of(own, _PLAIN)
        if not plain:
            continue
        cells = [axis, f"{value:g}", str(len(plain)), f"{mean(run['cosine'] for run in plain):+.3f}"]
        cells += [f"{mean(run['conflicts'] for run in plain):.0%}", f"{mean(run['mean'] for run in plain):.3f}"]
        for rule in rules:
            gain = gains(own, rule)
            cells.append("not yet run" if gain is None else f"{gain[0]:+.3f} ({gain[1]:.3f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_points(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what each rule gains over the mean cosine of the two tasks' gradients without surgery, a dot a point."""
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    rules = [name for name in dict.fromkeys(run["settings"]["surgery"] for run in runs) if name != _PLAIN]
    for rule in rules:
        found = []
        for own in points(runs).values():
            gain, plain = gains(own, rule), of(own, _PLAIN)
            if gain and plain:
                found.append((mean(run["cosine"] for run in plain), *gain))
        if found:
            cosines, means, deviations = zip(*found, strict=True)
            axes.errorbar(cosines, means, yerr=deviations, fmt="o", capsize=3, label=rule)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("mean cosine of the tasks' gradients, without surgery")
    axes.set_ylabel("gain in mean dev accuracy")
    axes.legend()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120, format="png")
    pyplot.close(figure)
