"""report.html: all that a run's folder tells, on one page that needs no network."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from concord.bert.errors import one_line, visible
from concord.bert.files import replacing
from concord.train.outputs.log import WHOLE_MODEL
from concord.train.outputs.names import REPORT_FILE
from concord.train.outputs.summary import score_line
from concord.train.reports.figures import MOST_PAIRS, Figure, conflicts_of, curves_of, speed_of, surgery_of
from concord.train.reports.judged import answers_of, lengths_of, mistakes_of
from concord.train.reports.profiled import profile_of
from concord.train.reports.stored_run import StoredRun

_LONGEST_VALUE = 200  # characters of a setting


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: of it; figures: in it; note: on all of them; wide: whether each takes the whole width.
    """

    title: str
    figures: list[Figure]
    note: str = ""
    wide: bool = False


def write_report(run: StoredRun) -> Path:
    """Write report.html into the run's folder, and return its path; InputError where a file that it shows is damaged,
    OSError where it cannot be written."""
    path = run.directory / REPORT_FILE
    text = page_of(run)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def page_of(run: StoredRun) -> str:
    """The page, as HTML that is well-formed XML too. Whatever comes from the folder is escaped."""
    return render(run.directory.resolve().name, result_line(run), _sections(run), _missing(run), command_of(run))


def render(title: str, result: str, sections: Sequence[Section], missing: Sequence[str] = (), command: str = "") -> str:
    """A page: a title, the result in one line, what is missing, sections of figures, and the command, if any. Every
    text is escaped."""
    loader = PackageLoader("concord.train.reports", "template")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        result=result,
        sections=[section for section in sections if section.figures],
        missing=missing,
        command=command,
    )


def _sections(run: StoredRun) -> list[Section]:
    pairs = len(run.log.pairs)
    shown = f" The {MOST_PAIRS} of {pairs} pairs that conflicted most." if pairs > MOST_PAIRS else ""
    red = (
        "Rows are blocks of parameters, columns stretches of steps of equal length; red is a mean cosine below 0, blue "
    )
    mistakes = [mistakes_of(run, task) for task in run.tasks]
    return [
        Section("Curves", curves_of(run)),
        Section(
            "Conflicts by layer, pair and time", conflicts_of(run), f"{red}above, none where two never met.{shown}"
        ),
        Section("Surgery", surgery_of(run)),
        Section("Answers to the dev sets", [figure for task in run.tasks for figure in answers_of(run, task)]),
        Section("Worst mistakes", [figure for figure in mistakes if figure], wide=True),
        Section("Lengths and data", lengths_of(run)),
        Section("Speed", [*speed_of(run), *profile_of(run)]),
        Section("Settings and versions", [_settings(run), _versions(run)]),
    ]


def result_line(run: StoredRun) -> str:
    """What came of the run, in one line."""
    step, dev = run.best
    steps = run.summary.get("steps", run.state.step)
    if not dev:
        return f"{run.state.name} after step {steps}, before the first evaluation"
    parts = [f"{run.state.name}: mean {run.scores['mean']:.3f}"]
    if run.scores["overall"] is not None:
        parts.append(f"overall {run.scores['overall']:.3f}")
    parts.append(f"at step {step} of {steps}: {score_line(dev)}")
    if run.summary:
        change = run.summary["surgery"].get(WHOLE_MODEL, {}).get("change")
        if change is not None:
            parts.append(f"{run.settings['--surgery']} changed the gradient by {change:.0%}")
        parts.append(f"{run.summary['seconds']:.0f} s on {run.summary['device']}")
    return "; ".join(parts).replace("; at", " at").replace("; overall", ", overall")


def command_of(run: StoredRun) -> str:
    """A command that runs the settings of the run in a new folder: those that differ from the defaults are flags. It
    names no recipe, whose settings are among them."""
    words = []
    for flag, value in run.changed.items():
        if value == "True":
            words.append(flag)
        elif flag != "--recipe" and value != "False":
            words.append(f"{flag}={value}" if value.startswith("-") else f"{flag} {shlex.quote(value)}")
    return " ".join(["python -m train.run", *words, "--out", shlex.quote(f"{run.directory.name}-again")])


def _settings(run: StoredRun) -> Figure:
    rows = [
        [flag, one_line(value or "none", _LONGEST_VALUE), one_line(run.defaults[flag] or "none", _LONGEST_VALUE)]
        for flag, value in run.changed.items()
    ]
    note = "" if rows else "Every setting has its default."
    return Figure("settings that differ from the defaults", header=["flag", "here", "default"], rows=rows, note=note)


def _versions(run: StoredRun) -> Figure:
    summary: Mapping[str, object] = run.summary
    names = ("device", "precision", "kernels", "products", "commit", "finished", "skipped_steps")
    rows = [
        [name.replace("_", " "), one_line(str(summary[name]), _LONGEST_VALUE)] for name in names if summary.get(name)
    ]
    rows += [[name, one_line(value, _LONGEST_VALUE)] for name, value in run.summary.get("versions", {}).items()]
    rows.append(["damaged lines of the log", str(run.summary.get("damaged_log_lines", run.log.damaged))])
    return Figure("machine and versions", header=["what", "which"], rows=rows)


def _missing(run: StoredRun) -> list[str]:
    """What the page would show if the folder had it."""
    found = [] if run.summary else ["The run is not done: what its summary tells comes with its end."]
    tasks = [task.name for task in run.tasks if task.name not in run.answers]
    return found + ([f"No dev answers are kept of {', '.join(tasks)}."] if tasks else [])
