"""The figures of a run's page that come from its dev answers: confusions, calibration, scores, lengths, mistakes."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from concord.bert.errors import InputError, one_line
from concord.bert.files import read_data
from concord.train.data.delimited import csv_rows
from concord.train.data.tasks import Task
from concord.train.outputs.dev_answers import DevAnswers
from concord.train.outputs.names import mistakes_file
from concord.train.reports.figures import Figure
from concord.train.reports.stored_run import StoredRun
from concord.train.reports.svg import Curve, histogram, plot, scatter

_MOST_CLASSES = 12  # of a confusion matrix
_MOST_DOTS = 1500
_BINS, _CALIBRATION_BINS = 20, 10
_LONGEST_NAME = 40  # characters of a class's name
_MOST_MISTAKES, _LONGEST_TEXT, _MOST_BYTES = 20, 400, 1 << 27


def answers_of(run: StoredRun, task: Task) -> list[Figure]:
    """What a task's dev answers look like; nothing where the run has none."""
    answers = run.answers.get(task.name)
    if answers is None:
        return []
    if task.kind == "regression":
        return [_scatter(task, answers), _scores(task, answers)]
    return [
        figure for figure in (_confusion(task, answers), _reliability(task, answers), _scores(task, answers)) if figure
    ]


def _confusion(task: Task, answers: DevAnswers) -> Figure | None:
    classes = max(2, task.classes)
    if classes > _MOST_CLASSES:
        return None
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (answers.gold.astype(np.int64), answers.predicted.astype(np.int64)), 1)
    names = _names(task)
    rows = [
        [f"gold {name}", *(str(count) for count in row), f"{row[gold] / total:.0%}" if (total := row.sum()) else "-"]
        for gold, (name, row) in enumerate(zip(names, counts, strict=True))
    ]
    header = ["", *(f"said {name}" for name in names), "right"]
    return Figure(f"{task.name}: confusion matrix", header=header, rows=rows, note=f"{counts.sum()} dev examples.")


def _names(task: Task) -> list[str]:
    """The classes' names as a figure has room for them."""
    return [one_line(name, _LONGEST_NAME) for name in task.label_names]


def _reliability(task: Task, answers: DevAnswers) -> Figure | None:
    """How often answers of a score are right; None where the scores are no probabilities."""
    scores = answers.scores
    if scores.min() < 0 or scores.max() > 1:
        return None
    right = answers.gold == (1.0 if task.kind == "binary" else answers.predicted)
    places = np.minimum((scores * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    counts = np.bincount(places, minlength=_CALIBRATION_BINS)
    kept = counts > 0
    said = np.bincount(places, weights=scores, minlength=_CALIBRATION_BINS)[kept] / counts[kept]
    shares = np.bincount(places, weights=right, minlength=_CALIBRATION_BINS)[kept] / counts[kept]
    error = float(np.sum(counts[kept] * np.abs(said - shares)) / counts.sum())
    line = np.array([0.0, 1.0])
    curves = [Curve("calibrated", 7, line, line, faint=True), Curve(task.name, 0, said, shares, dots=True)]
    what = "share of right answers by their probability"
    if task.kind == "binary":
        what = f"share of the label {_names(task)[1]} by its score"
    title = f"{task.name}: reliability"
    drawing = plot(title, curves, height=250, x_range=(0.0, 1.0), y_range=(0.0, 1.0))
    note = f"The {what}, in bins of a tenth. Expected calibration error, the mean distance from the line: {error:.3f}."
    return Figure(title, drawing, note=note)


def _scores(task: Task, answers: DevAnswers) -> Figure:
    title = f"{task.name}: scores"
    if task.kind == "regression":
        edges = np.linspace(*_range(task, answers), _BINS + 1)
        groups, legend = [answers.predicted, answers.gold], ["predicted", "gold"]
    else:
        low, high = min(0.0, float(answers.scores.min())), max(1.0, float(answers.scores.max()))
        edges = np.linspace(low, high, _BINS + 1)
        ones = answers.gold == (1.0 if task.kind == "binary" else answers.predicted)
        groups, legend = [answers.scores[ones], answers.scores[~ones]], ["right", "wrong"]
        if task.kind == "binary":
            no, yes = _names(task)
            title, legend = f"{task.name}: score of the answer {yes}", [f"gold {yes}", f"gold {no}"]
    counted = [np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] for own in groups]
    return Figure(title, histogram(title, edges, counted), legend)


def _range(task: Task, answers: DevAnswers) -> tuple[float, float]:
    """That of a regression's training set, made wider where dev scores lie beyond it."""
    return min(task.low, float(answers.gold.min())), max(task.high, float(answers.gold.max()))


def _scatter(task: Task, answers: DevAnswers) -> Figure:
    kept = np.arange(0, len(answers.gold), -(-len(answers.gold) // _MOST_DOTS))
    title = f"{task.name}: predicted over gold"
    drawing = scatter(title, answers.gold[kept], answers.predicted[kept], *_range(task, answers))
    note = f"{len(kept)} of {len(answers.gold)} dev examples." if len(kept) < len(answers.gold) else ""
    return Figure(title, drawing, note=note)


def lengths_of(run: StoredRun) -> list[Figure]:
    """The lengths of the dev examples in wordpieces, and how right the model is by length."""
    if not run.answers:
        return []
    longest = max(int(own.tokens.max()) for own in run.answers.values())
    edges = np.linspace(0, max(longest, 1), _BINS + 1)
    groups = [np.histogram(own.tokens, edges)[0] for own in run.answers.values()]
    rows = [
        [
            name,
            str(len(own.ids)),
            f"{own.tokens.mean():.1f}",
            f"{np.quantile(own.tokens, 0.95):.0f}",
            str(own.tokens.max()),
            *_errors_of_halves(own),
        ]
        for name, own in run.answers.items()
    ]
    header = ["task", "dev examples", "mean length", "95%", "longest", "error, shorter half", "error, longer half"]
    title = "dev examples by wordpieces"
    tokens, examples = (run.log.column("step", name).values.sum() for name in ("tokens", "examples"))
    note = f"In training an example had {tokens / examples:.1f} wordpieces on average." if examples else ""
    return [
        Figure(title, histogram(title, edges, groups), list(run.answers)),
        Figure("data", header=header, rows=rows, note=note),
    ]


def _errors_of_halves(answers: DevAnswers) -> list[str]:
    """The mean errors of the examples up to the median length, and of those above it."""
    shorter = answers.tokens <= np.median(answers.tokens)
    return [f"{answers.errors[half].mean():.3f}" if half.any() else "-" for half in (shorter, ~shorter)]


def mistakes_of(run: StoredRun, task: Task) -> Figure | None:
    """The worst mistakes on a task's dev set; None where none are kept. InputError where their file is damaged."""
    path = run.directory / mistakes_file(task.name)
    if not path.is_file():
        return None
    try:
        text = read_data(path, "mistakes on a dev set", _MOST_BYTES).decode("utf-8")
        rows = list(csv_rows(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not mistakes on a dev set ({error})") from None
    if not rows or rows[0][:4] != ["id", "error", "gold", "predicted"] or any(len(row) != len(rows[0]) for row in rows):
        raise InputError(f"{path}: not mistakes on a dev set, expected rows of id, error, gold, predicted and texts")
    shown = rows[1 : _MOST_MISTAKES + 1]
    cells: Sequence[Sequence[str]] = [[one_line(cell, _LONGEST_TEXT) for cell in row] for row in shown]
    note = f"The worst {len(shown)} of {len(rows) - 1} that are listed." if len(shown) < len(rows) - 1 else ""
    return Figure(f"{task.name}: worst mistakes", header=rows[0], rows=cells, note=note) if shown else None
