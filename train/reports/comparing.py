"""Several runs side by side, as rows of text: what differs in their settings, and what came of it."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from concord.bert.errors import one_line
from concord.train.data.tasks import Task
from concord.train.outputs.dev_answers import DevAnswers
from concord.train.reports.paired import COVERAGE, Difference, difference
from concord.train.reports.stored_run import StoredRun

NOTHING = "-"
_WIDEST = 28  # characters of a setting's value
_MOST = len(string.ascii_uppercase)


@dataclass(frozen=True)
class Comparison:
    """Runs beside one another, each called by a letter, in their order.

    Attributes:
        runs: letter -> run.
        sections: title -> rows of a name and a cell for each run.
        differences: task, letter of the run that is compared with the first, and the difference, None where they have
            no dev example in common.
        missing: letters of runs whose dev answers are not kept for every task.
    """

    runs: dict[str, StoredRun]
    sections: dict[str, list[list[str]]]
    differences: list[tuple[str, str, Difference | None]]
    missing: list[str]


def compare(runs: Sequence[StoredRun]) -> Comparison:
    """Compare 2 to 26 runs, the others with the first."""
    if not 2 <= len(runs) <= _MOST:
        raise ValueError(f"{len(runs)} runs, expected from 2 to {_MOST}")
    lettered = dict(zip(string.ascii_uppercase, runs, strict=False))
    sections = {
        "changed settings": changed_settings(runs),
        "dev scores of the best model": _scores(runs),
        "the run": _course(runs),
        "conflicts, share of the steps in which both tasks had a gradient": _conflicts(runs),
    }
    first, *others = lettered
    differences = [
        (name, letter, difference(task, *both))
        for letter in others
        for name, (task, *both) in _both_answer(lettered[first], lettered[letter]).items()
    ]
    missing = [letter for letter, run in lettered.items() if len(run.answers) < len(run.tasks)]
    return Comparison(lettered, sections, differences, missing)


def _both_answer(first: StoredRun, other: StoredRun) -> dict[str, tuple[Task, DevAnswers, DevAnswers]]:
    """The tasks that are the same in two runs and that both have answered."""
    theirs = {task.name: task for task in other.tasks}
    return {
        task.name: (task, first.answers[task.name], other.answers[task.name])
        for task in first.tasks
        if theirs.get(task.name) == task and task.name in first.answers and task.name in other.answers
    }


def changed_settings(runs: Sequence[StoredRun]) -> list[list[str]]:
    """A row for each setting in which the runs differ from one another."""
    flags = dict.fromkeys(flag for run in runs for flag in run.settings)
    rows = [[flag, *(run.settings[flag] for run in runs)] for flag in flags]
    return [[row[0], *(one_line(cell or "none", _WIDEST) for cell in row[1:])] for row in rows if len({*row[1:]}) > 1]


def _scores(runs: Sequence[StoredRun]) -> list[list[str]]:
    best = [run.best[1] for run in runs]
    names = dict.fromkeys((task, metric) for dev in best for task, row in dev.items() for metric in row)
    rows = [[f"{task} {metric}", *(number(dev.get(task, {}).get(metric)) for dev in best)] for task, metric in names]
    means = [[name, *(number(run.scores.get(name)) for run in runs)] for name in ("mean", "overall")]
    return [row for row in [*rows, *means] if any(cell != NOTHING for cell in row[1:])]


def _course(runs: Sequence[StoredRun]) -> list[list[str]]:
    seconds = [run.summary.get("seconds") for run in runs]
    speeds = [run.summary.get("examples_per_second") for run in runs]
    return [
        ["state", *(run.state.name for run in runs)],
        ["best step", *(str(run.best[0] or NOTHING) for run in runs)],
        ["steps", *(str(run.state.step or NOTHING) for run in runs)],
        ["seconds", *(number(value, 0) for value in seconds)],
        ["examples/s", *(number(value, 0) for value in speeds)],
    ]


def _conflicts(runs: Sequence[StoredRun]) -> list[list[str]]:
    found = [run.conflicts for run in runs]
    pairs = dict.fromkeys(pair for own in found for pair in own)
    shares = [[own.get(pair) for own in found] for pair in pairs]
    return [
        [pair, *(NOTHING if share is None else f"{share:.0%}" for share in row)]
        for pair, row in zip(pairs, shares, strict=True)
    ]


def number(value: float | None, decimals: int = 3) -> str:
    """A number with its decimals, a dash where there is none."""
    return NOTHING if value is None else f"{value:.{decimals}f}"


def text_of(comparison: Comparison) -> str:
    """The comparison as a table of plain text."""
    lines = [f"{letter}  {run.directory}" for letter, run in comparison.runs.items()]
    rows = [["", *comparison.runs]]
    for title, own in comparison.sections.items():
        rows += [[], [title], *own] if own else [[], [title], ["  none"]]
    lines += ["", *columns(rows)]
    lines += ["", f"differences from A, with a {COVERAGE:.0%} bootstrap interval over the dev examples of both"]
    table = [[f"{letter} - A", task, *_shown(found)] for task, letter, found in comparison.differences]
    lines += columns(table) or ["  none: the runs have no dev answers to the same task"]
    if comparison.missing:
        lines += [f"no dev answers to some task, and so no difference: {', '.join(comparison.missing)}"]
    return "\n".join(lines)


def _shown(found: Difference | None) -> list[str]:
    if found is None:
        return ["no dev example in common"]
    zero = "outside" if found.low > 0 or found.high < 0 else "within"
    interval = f"[{found.low:+.3f}, {found.high:+.3f}]"
    return [found.metric, f"{found.value:+.3f}", interval, f"{found.examples} examples", f"0 lies {zero}"]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell; a row of one cell, a title, widens none."""
    widths: dict[int, int] = {}
    for row in rows:
        for place, cell in enumerate(row if len(row) > 1 else ()):
            widths[place] = max(widths.get(place, 0), len(cell))
    return ["  ".join(cell.ljust(widths.get(place, 0)) for place, cell in enumerate(row)).rstrip() for row in rows]
