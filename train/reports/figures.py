"""The figures of a run's page that come from its log and its summary: curves, conflicts, surgery, speed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from concord.train.outputs.log import WHOLE_MODEL
from concord.train.reports.stored_log import Column
from concord.train.reports.stored_run import StoredRun
from concord.train.reports.svg import Curve, bars, heat, plot
from concord.train.reports.thinning import conflict_map, smoothed, thin

MOST_PAIRS = 12  # of which curves and maps are shown
_COLUMNS, _MOST_CELLS = 60, 60_000  # of the maps
_MOST_ROWS = 60  # of a table
_STEPS = (
    "Faint: means of stretches of steps of equal length, in bands of their extremes. Bold: a moving average of them."
)

NONE = Markup("")  # no drawing


@dataclass(frozen=True)
class Figure:
    """What stands under a title of its own.

    Attributes:
        title: what it shows.
        drawing: SVG, or "".
        legend: names of the colours, in their order.
        note: how to read it.
        header, rows: of a table, which may be in place of the drawing.
    """

    title: str
    drawing: Markup = NONE
    legend: Sequence[str] = ()
    note: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def curves_of(run: StoredRun) -> list[Figure]:
    """Losses, dev metrics, cosines, gradient norms and the learning rate over the steps."""
    columns = run.log.columns
    norms = dict(columns.get("gradient_norms", {}))
    if "merged_norm" in columns.get("step", {}):
        norms["merged"] = columns["step"]["merged_norm"]
    rates = {name: column for name, column in columns.get("step", {}).items() if name == "learning_rate"}
    pairs = dict(list(columns.get("cosines", {}).items())[:MOST_PAIRS])
    found = [
        _curve("training loss", columns.get("losses", {}), _STEPS),
        _dev_curves(run),
        _curve("gradient norms", norms, "Of each task, and of what surgery made of them."),
        _curve("cosines of the tasks' gradients", pairs, "Below 0 two tasks conflict."),
        _curve("learning rate of the encoder", rates, "", noisy=False),
    ]
    return [figure for figure in found if figure.drawing]


def _curve(title: str, columns: dict[str, Column], note: str, *, noisy: bool = True) -> Figure:
    """A figure of columns; noisy: whether a smoothed line is drawn over each."""
    lines, bands = [], []
    for hue, (name, column) in enumerate(columns.items()):
        thinned = thin(column)
        if noisy and len(thinned.steps) > 20:
            lines.append(Curve(name, hue, thinned.steps, thinned.values, faint=True))
            lines.append(Curve(name, hue, thinned.steps, smoothed(thinned.values)))
        else:
            lines.append(Curve(name, hue, thinned.steps, thinned.values))
        if len(thinned.steps) < len(column.steps):
            bands.append((hue, thinned.steps, thinned.low, thinned.high))
    drawing = plot(title, lines, bands) if lines else NONE
    return Figure(title, drawing, list(columns), note if lines else "")


def _dev_curves(run: StoredRun) -> Figure:
    columns: dict[str, Column] = {}
    for step, dev in run.log.evaluations:
        for task, row in dev.items():
            for metric, value in row.items():
                columns.setdefault(f"{task} {metric}", Column()).append(step, value)
    thinned = [thin(column) for column in columns.values()]
    lines = [
        Curve(name, hue, own.steps, own.values, dots=len(own.steps) < 100)
        for hue, (name, own) in enumerate(zip(columns, thinned, strict=True))
    ]
    step = run.best[0]
    note = f"The best model is that of step {step}." if step else ""
    return Figure("dev metrics", plot("dev metrics", lines) if lines else NONE, list(columns), note)


def conflicts_of(run: StoredRun) -> list[Figure]:
    """The map of conflicts by layer over time, a figure a pair of tasks, those that conflicted most first."""
    log, shares = run.log, run.conflicts
    order = sorted(range(len(log.pairs)), key=lambda place: -(shares.get(log.pairs[place]) or 0.0))[:MOST_PAIRS]
    cells = max(1, len(log.blocks) * len(order))
    found = conflict_map(log, min(_COLUMNS, max(10, _MOST_CELLS // cells)))
    if found is None:
        return []
    largest = max(0.1, float(np.nanmax(np.abs(found.cosines[..., order]), initial=0.0)))
    figures = []
    for place in order:
        values, pair = found.cosines[..., place], log.pairs[place]
        share = shares.get(pair)
        note = "" if share is None else f"In conflict in {share:.0%} of the steps in which both had a gradient."
        if np.isfinite(values).any():
            figures.append(
                Figure(pair, heat(f"conflicts of {pair}", log.blocks, found.edges, values, largest), note=note)
            )
    return figures


def surgery_of(run: StoredRun) -> list[Figure]:
    """What surgery changed in each block of parameters, and what it met in the whole model."""
    surgery = run.summary.get("surgery", {})
    if WHOLE_MODEL not in surgery:
        return []
    changes = {block: float(own["change"]) for block, own in surgery.items()}
    shown = dict(list(changes.items())[-_MOST_ROWS:])
    left_out = f" The last {len(shown)} of {len(changes)} blocks." if len(shown) < len(changes) else ""
    turns = run.summary.get("turns", {})  # runs of before do not tell them
    rows = [
        [pair, str(own["meeting_steps"]), _share(own["share"]), _decimals(own["mean_cosine"]), _turn(turns.get(pair))]
        for pair, own in surgery[WHOLE_MODEL]["pairs"].items()
    ][:_MOST_ROWS]
    norms = [[task, _decimals(norm)] for task, norm in surgery[WHOLE_MODEL]["gradient_norms"].items()]
    return [
        Figure(
            "what surgery changed",
            bars("what surgery changed", shown, unit="%"),
            note=f"How far surgery moved the tasks' sum (or mean) on average, as a share of its norm.{left_out}",
        ),
        Figure(
            "pairs of tasks, whole model",
            header=["pair", "steps with both", "in conflict", "mean cosine", "PCGrad's turn a step"],
            rows=rows,
            note=f"In short: {run.summary['advice']}." if "advice" in run.summary else "",
        ),
        Figure("mean gradient norm, whole model", header=["task", "norm"], rows=norms),
    ]


def speed_of(run: StoredRun) -> list[Figure]:
    """Examples a second over the steps, and the epochs."""
    thinned, examples = (thin(run.log.column("step", name)) for name in ("seconds", "trained_examples"))
    found = []
    if len(thinned.steps) > 2:
        spent = np.diff(thinned.values)
        with np.errstate(invalid="ignore", divide="ignore"):
            speed = np.where(spent > 0, np.diff(examples.values) / spent, np.nan)
        lines = [Curve("examples/s", 0, thinned.steps[1:], speed)]
        found.append(Figure("examples a second", plot("examples a second", lines), note="In training steps alone."))
    epochs = run.summary.get("epochs", [])
    if epochs:
        kept = epochs[:: -(-len(epochs) // _MOST_ROWS)]
        pairs = list(kept[0]["conflicts"])[:4]
        rows = [
            [str(row["epoch"] + 1), str(row["steps"]), f"{row['seconds']:.1f}"]
            + [str(row["conflicts"].get(pair, "-")) for pair in pairs]
            for row in kept
        ]
        note = f"{len(kept)} of {len(epochs)} epochs." if len(kept) < len(epochs) else ""
        header = ["epoch", "steps", "seconds", *(f"conflicts {pair}" for pair in pairs)]
        found.append(Figure("epochs", header=header, rows=rows, note=note))
    return found


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _turn(degrees: float | None) -> str:
    return "-" if degrees is None else f"{abs(degrees):.1f}°"


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
