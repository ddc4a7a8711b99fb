"""Figures in which several runs lie over one another: a figure a number, a colour a run."""

from collections.abc import Mapping

from concord.train.reports.comparing import shown
from concord.train.reports.figures import MOST_PAIRS, Figure
from concord.train.reports.members import Member
from concord.train.reports.spread import COVERAGE, Spread
from concord.train.reports.stored_log import Column
from concord.train.reports.stored_run import StoredRun
from concord.train.reports.svg import Curve, plot
from concord.train.reports.thinning import smoothed, thin

COLOURS = 8
_FEW = 20  # points, that are not smoothed
_TITLES = {"losses": "training loss of", "cosines": "cosine of"}


def overlaid_curves(runs: Mapping[str, tuple[int, StoredRun]]) -> list[Figure]:
    """Losses, cosines and dev metrics of runs, each in one figure; runs: name -> number of its colour, and
    the run."""
    found = [_figure(f"{_TITLES[group]} {name}", _columns(runs, group, name)) for group, name in _names(runs)]
    dev = {name: _dev(run) for name, (_, run) in runs.items()}
    metrics = dict.fromkeys(metric for own in dev.values() for metric in own)
    hues = {name: hue for name, (hue, _) in runs.items()}
    for metric in metrics:
        columns = {name: (hues[name], own[metric]) for name, own in dev.items() if metric in own}
        found.append(_figure(f"dev {metric}", columns, noisy=False))
    return found


def _names(runs: Mapping[str, tuple[int, StoredRun]]) -> list[tuple[str, str]]:
    """The group and the name of each column that any of the runs has."""
    names = dict.fromkeys(
        (group, name) for group in _TITLES for _, run in runs.values() for name in run.log.columns.get(group, {})
    )
    cosines = [name for name in names if name[0] == "cosines"]
    return [name for name in names if name not in cosines[MOST_PAIRS:]]


def _columns(runs: Mapping[str, tuple[int, StoredRun]], group: str, name: str) -> dict[str, tuple[int, Column]]:
    columns = {called: (hue, run.log.column(group, name)) for called, (hue, run) in runs.items()}
    return {called: (hue, column) for called, (hue, column) in columns.items() if len(column.steps)}


def _dev(run: StoredRun) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for step, dev in run.log.evaluations:
        for task, row in dev.items():
            for metric, value in row.items():
                columns.setdefault(f"{task} {metric}", Column()).append(step, value)
    return columns


def _figure(title: str, columns: Mapping[str, tuple[int, Column]], *, noisy: bool = True) -> Figure:
    """A figure of one column of each run; noisy: whether what is drawn is a moving average."""
    lines, averaged = [], False
    for name, (hue, column) in columns.items():
        thinned = thin(column)
        average = noisy and len(thinned.steps) > _FEW
        averaged |= average
        values = smoothed(thinned.values) if average else thinned.values
        lines.append(Curve(name, hue, thinned.steps, values, dots=not noisy and len(thinned.steps) < 100))
    note = "Moving averages of stretches of steps of equal length." if averaged else ""
    legend = {hue: name.partition(" ")[0] for name, (hue, _) in reversed(columns.items())}
    # The legend's colours are those of its places.
    names = [legend.get(hue, "") for hue in range(max(legend) + 1)] if legend else []
    return Figure(title, plot(title, lines), legend=names, note=note)


def score_rows(member: Member) -> list[list[str]]:
    """A row for each dev score of several runs: mean, deviation, interval, and the value of each."""
    return [[f"{task} {metric}".strip(), *_cells(spread)] for (task, metric), spread in member.scores.items()]


def score_header(member: Member) -> list[str]:
    """What the cells of `score_rows` are."""
    return ["dev score", "mean", "deviation", f"{COVERAGE:.0%} interval", *(run.directory.name for run in member.runs)]


def _cells(spread: Spread) -> list[str]:
    numbers = [f"{value:.3f}" for value in spread.values]
    if spread.deviation is None:
        return [f"{spread.mean:.3f}", "-", "-", *numbers]
    return [f"{spread.mean:.3f}", f"{spread.deviation:.3f}", f"[{spread.low:.3f}, {spread.high:.3f}]", *numbers]


def course_rows(member: Member) -> list[list[str]]:
    """What else came of several runs, means with deviations: seconds, speed, conflicts."""
    rows = [["seconds", shown(member.of_summary("seconds"), 0)]]
    rows.append(["examples/s", shown(member.of_summary("examples_per_second"), 0)])
    return rows + [[f"conflicts {pair}", shown(spread)] for pair, spread in member.conflicts.items()]
