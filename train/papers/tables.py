"""A paper's tables beside our figures: Markdown, CSV and a plot a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from concord.bert.files import make_folder, replacing
from concord.train.objectives.metrics import course_score
from concord.train.papers.budgets import BUDGETS
from concord.train.papers.results import Results
from concord.train.settings.recipes import Paper, Row, Table

_MAIN_METRICS = ("accuracy", "pearson")  # each task has exactly one of them
_TIMES = ("seconds", "seconds_per_epoch", "examples_per_second")
METRICS = ("sst", "paraphrase", "sts", "overall")
_TITLES = {"sst": "SST accuracy", "paraphrase": "paraphrase accuracy", "sts": "STS Pearson", "overall": "overall"}


def main_score(metrics: Mapping[str, float]) -> float:
    """The one of a task's dev metrics that papers report: the accuracy, or of a regression Pearson's r."""
    return next(metrics[name] for name in _MAIN_METRICS if name in metrics)


def row_scores(paper: Paper, row: Row, results: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """Our figures for a row: each task's main dev metric, `overall` as the paper computes it where all three tasks are
    there, and, where its results tell the time, seconds, examples_per_second, seconds_per_epoch over the row's runs.
    None while a result is missing.

    results: system -> its result, as `train.papers.results` keeps it.
    """
    if any(system not in results for system in row.systems):
        return None
    runs = [results[system] for system in row.systems]
    found: dict[str, float] = {}
    for run in runs:
        found |= {task: main_score(metrics) for task, metrics in run["dev"].items()}
    score = course_score(found)
    if score is not None:
        found["overall"] = score if paper.overall == "course" else sum(found[task] for task in METRICS[:3]) / 3
    if any(run["seconds"] is None for run in runs):
        return found
    trained = sum(run["training_seconds"] for run in runs)
    found["seconds"] = sum(run["seconds"] for run in runs)
    found["examples_per_second"] = sum(run["examples_per_second"] * run["training_seconds"] for run in runs) / trained
    found["seconds_per_epoch"] = sum(run["training_seconds"] / max(1, run["epochs"]) for run in runs)
    return found


@dataclass(frozen=True)
class _Line:
    """A row of a table as it is written.

    Attributes:
        row: of the paper.
        budget: the longest that all of its systems have run in, or "".
        seeds: with which they have.
        figures: ours there, the mean over the seeds, as `row_scores` gives them.
        deviations: the standard deviation of each figure over the seeds; none of one seed.
    """

    row: Row
    budget: str = ""
    seeds: tuple[int, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)

    def what(self) -> str:
        """The budget and how many seeds, in words."""
        return f"{self.budget}, {len(self.seeds)} seeds" if len(self.seeds) > 1 else self.budget or "not yet run"


def _line(paper: Paper, row: Row, results: Results) -> _Line:
    for budget in reversed(BUDGETS):
        by_seed = {seed: row_scores(paper, row, found) for seed, found in results.get(budget, {}).items()}
        scores = {seed: figures for seed, figures in by_seed.items() if figures is not None}
        if scores:
            each = {name: [figures[name] for figures in scores.values()] for name in next(iter(scores.values()))}
            deviations = {name: stdev(values) for name, values in each.items()} if len(scores) > 1 else {}
            return _Line(row, budget, tuple(scores), {name: mean(values) for name, values in each.items()}, deviations)
    return _Line(row)


def write_tables(
    paper: Paper,
    tables: Sequence[Table],
    results: Results,
    out: Path,
    *,
    pictures: bool = True,
) -> list[Path]:
    """Write table-N.md, table-N.csv and with `pictures` table-N.png of each table into `out`, and return their paths.

    results: of the systems that have run; the others' rows say that they have not.
    """
    written = []
    make_folder(out)
    for table in tables:
        stem = out / f"table-{paper.tables.index(table) + 1}"
        lines = [_line(paper, row, results) for row in table.rows]
        content = {".md": _markdown(paper, table, lines, _sources(lines, results)), ".csv": _csv(table, lines)}
        for suffix, text in content.items():
            path = stem.with_suffix(suffix)
            with replacing(path) as beside:
                beside.write_text(text, encoding="utf-8")
            written.append(path)
        picture = _plot(paper, table, lines, stem.with_suffix(".png")) if pictures else None
        written += [picture] if picture else []
    return written


def _columns(table: Table) -> list[str]:
    return [metric for metric in METRICS if any(metric in row.figures for row in table.rows)]


def _sources(lines: Sequence[_Line], results: Results) -> list[str]:
    """What made a table's figures, on what, and at which commits, a sentence a budget."""
    sources = []
    for budget in dict.fromkeys(line.budget for line in lines if line.budget):
        own = [line for line in lines if line.budget == budget]
        keys = dict.fromkeys((seed, system) for line in own for seed in line.seeds for system in line.row.systems)
        runs = [results[budget][seed][system] for seed, system in keys]
        places = {f"{run['device']}, {run['precision']}, torch {run['versions']['torch']}" for run in runs}
        commits = sorted({run["commit"][:7] + run["commit"][40:] for run in runs if run["commit"]})
        found = [f"`{command}`" for command in sorted({run["command"] for run in runs})]
        found += [*sorted(places), *([f"at commit {' and '.join(commits)}"] if commits else [])]
        sources.append(f"Dev scores, {budget}: {', '.join(found)}.")
    return sources


def _markdown(paper: Paper, table: Table, lines: Sequence[_Line], sources: Sequence[str]) -> str:
    metrics = _columns(table)
    header = ["system", "budget", *(f"{_TITLES[metric]}: ours, paper, difference" for metric in metrics)]
    header += ["seconds", "seconds an epoch", "examples/s"]
    text = [f"# {paper.title}: {table.title}", *(part for source in sources for part in ("", source))]
    text += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for line in lines:
        cells = [line.row.name, line.what()]
        for metric in metrics:
            paper_figure, ours = line.row.figures.get(metric), line.figures.get(metric)
            deviation = f" ± {_number(line.deviations[metric])}" if metric in line.deviations else ""
            cells.append(f"{_number(ours)}{deviation}, {_number(paper_figure)}, {_difference(ours, paper_figure)}")
        for name in _TIMES:
            cells.append(f"{line.figures[name]:.0f}" if name in line.figures else "-")
        text.append("| " + " | ".join(cells) + " |")
    tested = [row for row in table.rows if row.test]
    if tested:
        text += ["", "The paper's test scores: " + "; ".join(_test_line(row) for row in tested) + "."]
    text += ["", *(f"{note}" for note in table.notes)]
    return "\n".join(text).rstrip() + "\n"


def _test_line(row: Row) -> str:
    return f"{row.name}: " + ", ".join(f"{_TITLES[name]} {_number(value)}" for name, value in row.test.items())


def _csv(table: Table, lines: Sequence[_Line]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = _columns(table)
    parts = [f"{metric}_{part}" for metric in metrics for part in ("ours", "deviation", "paper", "difference")]
    writer.writerow(["system", "budget", "seeds", *parts, *_TIMES])
    for line in lines:
        cells: list[Any] = [line.row.name, line.budget, len(line.seeds) or ""]
        for metric in metrics:
            paper_figure, ours = line.row.figures.get(metric), line.figures.get(metric)
            both = ours is not None and paper_figure is not None
            cells += [
                _rounded(ours),
                _rounded(line.deviations.get(metric)),
                _rounded(paper_figure),
                _rounded(ours - paper_figure) if both else "",
            ]
        writer.writerow([*cells, *(_rounded(line.figures.get(name)) for name in _TIMES)])
    return text.getvalue()


def _plot(paper: Paper, table: Table, lines: Sequence[_Line], path: Path) -> Path | None:
    """Bars: the paper's figures and ours, a panel a metric; None on a machine without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    metrics = _columns(table)
    names = [f"{line.row.name} ({line.what()})" for line in lines]
    height = 1.2 + 0.42 * len(names)
    figure, panels = pyplot.subplots(
        1, len(metrics), figsize=(3 + 2.6 * len(metrics), height), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, metric in zip(panels[0], metrics, strict=True):
        for shift, label, values in (
            (-0.2, "paper", [line.row.figures.get(metric) for line in lines]),
            (0.2, "ours", [line.figures.get(metric) for line in lines]),
        ):
            places = [place + shift for place, value in enumerate(values) if value is not None]
            panel.barh(places, [value for value in values if value is not None], height=0.36, label=label)
        panel.set_title(_TITLES[metric], fontsize=9)
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_yticks(range(len(names)), names, fontsize=8)
    panels[0][0].invert_yaxis()
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    figure.suptitle(f"{paper.title}: {table.title}", fontsize=10)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120, format="png")
    pyplot.close(figure)
    return path


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _difference(ours: float | None, theirs: float | None) -> str:
    return "-" if ours is None or theirs is None else f"{ours - theirs:+.3f}".replace("0.", ".", 1)


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
