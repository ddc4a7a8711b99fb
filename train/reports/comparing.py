"""Several runs side by side, as rows of text: what differs in their settings, and what came of it."""

import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from concord.bert.errors import one_line
from concord.train.data.tasks import Task
from concord.train.outputs.dev_answers import DevAnswers
from concord.train.reports.members import Member
from concord.train.reports.paired import Difference, difference
from concord.train.reports.spread import COVERAGE, Spread

NOTHING = "-"
NO_ANSWERS = "none: the runs have no dev answers to the same task"
_WIDEST = 28  # characters of a setting's value
_MOST = len(string.ascii_uppercase)


@dataclass(frozen=True)
class Comparison:
    """Runs, or the runs of several seeds, beside one another, each called by a letter, in their order.

    Attributes:
        members: letter -> what is compared.
        sections: title -> rows of a name and a cell for each member.
        differences: task, letter of the member that is compared with the first, and the difference, None where they
            have no dev example in common, or none by which the metric is defined.
        missing: letters of members with a run whose dev answers are not kept for every task.
    """

    members: dict[str, Member]
    sections: dict[str, list[list[str]]]
    differences: list[tuple[str, str, Difference | None]]
    missing: list[str]


def compare(members: Sequence[Member]) -> Comparison:
    """Compare 2 to 26 members, the others with the first."""
    if not 2 <= len(members) <= _MOST:
        raise ValueError(f"{len(members)} runs, expected from 2 to {_MOST}")
    lettered = dict(zip(string.ascii_uppercase, members, strict=False))
    sections = {
        "changed settings": changed_settings(members),
        "dev scores of the best model": _scores(members),
        "the run": _course(members),
        "conflicts, share of the steps in which both tasks had a gradient": _conflicts(members),
    }
    first, *others = lettered
    differences = [
        (task.name, letter, difference(task, *both))
        for letter in others
        for task, *both in _both_answer(lettered[first], lettered[letter])
    ]
    missing = [
        letter for letter, member in lettered.items() if any(len(run.answers) < len(run.tasks) for run in member.runs)
    ]
    return Comparison(lettered, sections, differences, missing)


def _both_answer(first: Member, other: Member) -> Iterator[tuple[Task, list[DevAnswers], list[DevAnswers]]]:
    """The tasks that are the same in all runs of two members and that all have answered, with the answers of either."""
    runs = [*first.runs, *other.runs]
    for task in first.runs[0].tasks:
        if all(task in run.tasks and task.name in run.answers for run in runs):
            yield task, *([run.answers[task.name] for run in member.runs] for member in (first, other))


def changed_settings(members: Sequence[Member]) -> list[list[str]]:
    """A row for each setting in which the members differ from one another."""
    flags = dict.fromkeys(flag for member in members for run in member.runs for flag in run.settings)
    rows = [[flag, *(_several(run.settings[flag] for run in member.runs) for member in members)] for flag in flags]
    return [[row[0], *(one_line(cell or "none", _WIDEST) for cell in row[1:])] for row in rows if len({*row[1:]}) > 1]


def _several(values: Iterable[str]) -> str:
    """What the runs of a member have, each value once."""
    return ",".join(dict.fromkeys(values))


def _scores(members: Sequence[Member]) -> list[list[str]]:
    scores = [member.scores for member in members]
    names = dict.fromkeys(name for own in scores for name in own)
    last = [name for name in (("", "mean"), ("", "overall")) if name in names]
    rows = [*(name for name in names if name not in last), *last]
    return [[f"{task} {metric}".strip(), *(shown(own.get((task, metric))) for own in scores)] for task, metric in rows]


def _course(members: Sequence[Member]) -> list[list[str]]:
    return [
        ["state", *(member.states for member in members)],
        ["best step", *(_several(str(run.best[0] or NOTHING) for run in member.runs) for member in members)],
        ["steps", *(_several(str(run.state.step or NOTHING) for run in member.runs) for member in members)],
        ["seconds", *(shown(member.of_summary("seconds"), 0) for member in members)],
        ["examples/s", *(shown(member.of_summary("examples_per_second"), 0) for member in members)],
    ]


def _conflicts(members: Sequence[Member]) -> list[list[str]]:
    found = [member.conflicts for member in members]
    pairs = dict.fromkeys(pair for own in found for pair in own)
    return [[pair, *(_share(own.get(pair)) for own in found)] for pair in pairs]


def _share(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"{spread.mean:.0%}" + ("" if spread.deviation is None else f" \u00b1 {spread.deviation:.0%}")


def shown(spread: Spread | None, decimals: int = 3) -> str:
    """A mean with its deviation where there are several values, a dash where there is none."""
    if spread is None:
        return NOTHING
    deviation = "" if spread.deviation is None else f" \u00b1 {spread.deviation:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{deviation}"


def number(value: float | None, decimals: int = 3) -> str:
    """A number with its decimals, a dash where there is none."""
    return NOTHING if value is None else f"{value:.{decimals}f}"


def text_of(comparison: Comparison) -> str:
    """The comparison as a table of plain text."""
    lines = [f"{letter}  {_called(member)}" for letter, member in comparison.members.items()]
    rows = [["", *comparison.members]]
    for title, own in comparison.sections.items():
        rows += [[], [title], *own] if own else [[], [title], ["  none"]]
    lines += ["", *columns(rows)]
    lines += ["", differences_title(comparison)]
    lines += columns(difference_rows(comparison)) or [f"  {NO_ANSWERS}"]
    if comparison.missing:
        lines += [f"no dev answers to some task, and so no difference: {', '.join(comparison.missing)}"]
    return "\n".join(lines)


def _called(member: Member) -> str:
    seeds = f"  (seeds {', '.join(map(str, member.seeds))})" if member.seeds else ""
    return f"{member.directory}{seeds}"


def differences_title(comparison: Comparison) -> str:
    """What the differences are, and what their interval tells."""
    of_seeds = " and the seeds" if any(member.seeds for member in comparison.members.values()) else ""
    return f"differences from A, with a {COVERAGE:.0%} bootstrap interval over the dev examples of both{of_seeds}"


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """A row for each difference: of what, of which task, metric, value, interval, examples, where 0 lies."""
    return [[f"{letter} - A", task, *_shown(found)] for task, letter, found in comparison.differences]


def _shown(found: Difference | None) -> list[str]:
    if found is None:
        return ["no dev example in common, or none by which the metric is defined"]
    zero = "outside" if found.low > 0 or found.high < 0 else "within"
    interval = f"[{found.low:+.3f}, {found.high:+.3f}]"
    most = "" if found.examples == found.of_examples else f" of {found.of_examples}"
    return [found.metric, f"{found.value:+.3f}", interval, f"{found.examples}{most} examples", f"0 lies {zero}"]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell; a row of one cell, a title, widens none."""
    widths: dict[int, int] = {}
    for row in rows:
        for place, cell in enumerate(row if len(row) > 1 else ()):
            widths[place] = max(widths.get(place, 0), len(cell))
    return ["  ".join(cell.ljust(widths.get(place, 0)) for place, cell in enumerate(row)).rstrip() for row in rows]
