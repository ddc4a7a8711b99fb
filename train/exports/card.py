"""The model card: what a model is, what it was trained on and how well it does, and how it is loaded; as Markdown.

It is made from what the run has left. Of paths only the last part is told, since cards are published.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from concord.bert.files import replacing
from concord.bert.names import CARD_FILE
from concord.train.data.tasks import Task
from concord.train.exports.request import Written
from concord.train.objectives.answers import label_names
from concord.train.reports.stored_run import StoredRun

_LABELS = 12  # of a task that are listed
_PLACES = ("--data", "--train-file", "--validation-file", "--test-file", "--model")  # settings that may be paths
_TEXTS = {False: "one text", True: "a pair of texts"}


def write_card(folder: Path, run: StoredRun, written: Written, *, name: str, about: Sequence[str]) -> None:
    """Write the card of the best model of a run, which lies in `folder`.

    written: what the folder holds; name: what it is called where it is loaded; about: the first paragraphs.
    """
    blocks = [
        _front(written),
        f"# {_plain(', '.join(task.name for task in run.tasks))}",
        *about,
        _code(written.loading.replace("FOLDER", name)),
        *(f"Note: {remark}." for remark in written.remarks),
        *_scores(run),
        *_conflicts(run),
        *_settings(run),
        *_provenance(run.summary),
    ]
    with replacing(folder / CARD_FILE) as beside:
        beside.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _front(written: Written) -> str:
    pipeline = [f"pipeline_tag: {written.pipeline}"] if written.pipeline else []
    return "\n".join(["---", f"library_name: {written.library}", *pipeline, "tags:", "- concord", "---"])


def _scores(run: StoredRun) -> list[str]:
    (step, dev), sizes = run.best, run.summary.get("examples", {})
    rows = []
    for task in run.tasks:
        found = ", ".join(f"{name} {_number(value)}" for name, value in dev.get(task.name, {}).items())
        own = sizes.get(task.name, {})
        rows.append((task.name, _answer(task), own.get("train", "?"), own.get("dev", "?"), found or "?"))
    about = (
        f"The scores are those of the dev sets after step {step}, which was chosen by them: texts that it was not "
        "chosen by may have lower ones."
    )
    return ["## Tasks", _table(("task", "answers", "train examples", "dev examples", "dev scores"), rows), about]


def _answer(task: Task) -> str:
    """What a task answers, in words."""
    if task.kind == "regression":
        return f"a number from {task.low:g} to {task.high:g} for {_TEXTS[task.pair]}"
    labels = [str(label) for label in label_names(task)]
    more = f" and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
    return f"{', '.join(labels[:_LABELS])}{more} for {_TEXTS[task.pair]}"


def _conflicts(run: StoredRun) -> list[str]:
    rows = [(pair, "never met" if share is None else f"{100 * share:.0f}%") for pair, share in run.conflicts.items()]
    if not rows:
        return []
    about = "In how many of their steps two tasks' gradients of the shared weights pointed against each other."
    return ["## Conflicts between the tasks", about, _table(("tasks", "steps in conflict"), rows)]


def _settings(run: StoredRun) -> list[str]:
    rows = [(f"`{flag}`", Path(text).name if flag in _PLACES else text) for flag, text in run.changed.items()]
    return ["## Settings", "Those that are not the defaults.", _table(("setting", "value"), rows)] if rows else []


def _provenance(summary: Mapping[str, Any]) -> list[str]:
    if not summary:
        return []
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        "## Made with",
        f"Concord, commit {summary['commit'] or 'unknown'}; {versions}. {summary['steps']} steps in "
        f"{summary['training_seconds']:.0f} s on {summary['device']}, {summary['precision']}.",
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_plain(str(cell)) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text that does not end a cell or a line, and is no markup."""
    line = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return line.replace("<", "&lt;")


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
