"""Pages of several runs, in the style of report.html: a comparison, and the runs of several seeds."""

from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import make_folder, replacing
from concord.train.outputs.named_output import check_output
from concord.train.outputs.names import REPORT_FILE
from concord.train.reports.comparing import (
    NO_ANSWERS,
    Comparison,
    changed_settings,
    difference_rows,
    differences_title,
    shown,
)
from concord.train.reports.figures import Figure
from concord.train.reports.members import Member
from concord.train.reports.overlaid import COLOURS, course_rows, overlaid_curves, score_header, score_rows
from concord.train.reports.page import Section, render

_DIFFERENCES = ["what", "task", "metric", "difference", "interval", "examples", "0"]


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write a comparison as a page, and return its path; InputError where its name is not that of a page, or a folder
    or a file of a run lies there, OSError where it cannot be written."""
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise InputError(f"--html {path}: expected the name of a file that ends in .html")
    check_output(path, [member.directory / REPORT_FILE for member in comparison.members.values()], "--html")
    make_folder(path.parent)
    return _write(path, comparison_page(comparison))


def _write(path: Path, text: str) -> Path:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison."""
    members = comparison.members
    header = ["", *members]
    runs = [[letter, str(member.directory), ", ".join(map(str, member.seeds))] for letter, member in members.items()]
    tables = [Figure("runs", header=["", "folder", "seeds"], rows=runs)]
    tables += [Figure(title, header=header, rows=rows) for title, rows in comparison.sections.items() if rows]
    differences = difference_rows(comparison)
    figure = Figure("paired differences", header=_DIFFERENCES, rows=differences, note="" if differences else NO_ANSWERS)
    curves = overlaid_curves(
        {
            (f"{letter} {run.directory.name}" if member.seeds else letter): (hue, run)
            for hue, (letter, member) in enumerate(members.items())
            for run in member.runs
        }
    )
    missing, title = comparison.missing, differences_title(comparison)
    return render(
        f"{len(members)} runs compared",
        "; ".join(f"{letter} mean {shown(member.scores.get(('', 'mean')))}" for letter, member in members.items()),
        [
            Section("Side by side", tables),
            Section("Differences", [figure], f"{title[0].upper()}{title[1:]}.", wide=True),
            Section("Curves", curves, _colours(len(members))),
        ],
        [f"No dev answers to some task, and so no difference: {', '.join(missing)}."] if missing else [],
    )


def _colours(count: int) -> str:
    return f"Colours repeat after {COLOURS}; the numbers under the pointer have the names." if count > COLOURS else ""


def write_seeds_page(member: Member) -> Path:
    """Write report.html of the runs of several seeds into their folder, and return its path."""
    return _write(member.directory / REPORT_FILE, seeds_page(member))


def seeds_page(member: Member) -> str:
    """The page of several seeds."""
    alone = [Member(run.directory, [run]) for run in member.runs]
    changed = [row for row in changed_settings(alone) if row[0] != "--seed"]
    first = member.runs[0]
    settings = [[flag, value or "none", first.defaults[flag] or "none"] for flag, value in first.changed.items()]
    note = "What else differs between the runs: " + ", ".join(row[0] for row in changed) + "." if changed else ""
    curves = overlaid_curves({run.directory.name: (hue, run) for hue, run in enumerate(member.runs)})
    rows = [[run.directory.name, run.state.name, str(run.best[0] or "-")] for run in member.runs]
    return render(
        member.directory.resolve().name,
        f"{member.states}: mean {shown(member.scores.get(('', 'mean')))} over the seeds "
        f"{', '.join(map(str, member.seeds))}",
        [
            Section(
                "Scores",
                [Figure("dev scores of the best models", header=score_header(member), rows=score_rows(member))],
                wide=True,
            ),
            Section(
                "The runs",
                [
                    Figure("runs", header=["run", "state", "best step"], rows=rows, note="Each has a page of its own."),
                    Figure("means and deviations", header=["what", "over the seeds"], rows=course_rows(member)),
                ],
            ),
            Section("Curves", curves, _colours(len(member.runs))),
            Section(
                "Settings",
                [
                    Figure(
                        "settings that differ from the defaults",
                        header=["flag", "here", "default"],
                        rows=settings,
                        note=note,
                    )
                ],
            ),
        ],
    )
