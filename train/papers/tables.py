"""A paper's tables beside our figures: Markdown, CSV and a plot a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concord.bert.files import replacing
from concord.train.objectives.metrics import course_score
from concord.train.settings.recipes import Paper, Row, Table

_MAIN_METRICS = ("accuracy", "pearson")  # each task has exactly one of them
METRICS = ("sst", "paraphrase", "sts", "overall")
_TITLES = {"sst": "SST accuracy", "paraphrase": "paraphrase accuracy", "sts": "STS Pearson", "overall": "overall"}


def main_score(metrics: Mapping[str, float]) -> float:
    """The one of a task's dev metrics that papers report: the accuracy, or of a regression Pearson's r."""
    return next(metrics[name] for name in _MAIN_METRICS if name in metrics)


def row_scores(paper: Paper, row: Row, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """Our figures for a row: each task's main dev metric, `overall` as the paper computes it where all three tasks are
    there, and seconds, examples_per_second, seconds_per_epoch over the row's runs. None while a run is missing."""
    if any(system not in summaries for system in row.systems):
        return None
    runs = [summaries[system] for system in row.systems]
    found: dict[str, float] = {}
    for run in runs:
        found |= {task: main_score(metrics) for task, metrics in run["dev"].items()}
    score = course_score(found)
    if score is not None:
        found["overall"] = score if paper.overall == "course" else sum(found[task] for task in METRICS[:3]) / 3
    trained = sum(run["training_seconds"] for run in runs)
    found["seconds"] = sum(run["seconds"] for run in runs)
    found["examples_per_second"] = sum(run["examples_per_second"] * run["training_seconds"] for run in runs) / trained
    found["seconds_per_epoch"] = sum(run["training_seconds"] / max(1, len(run["epochs"])) for run in runs)
    return found


def write_tables(
    paper: Paper,
    tables: Sequence[Table],
    summaries: Mapping[str, Mapping[str, Any]],
    out: Path,
    *,
    command: str,
    pictures: bool = True,
) -> list[Path]:
    """Write table-N.md, table-N.csv and with `pictures` table-N.png of each table into `out`, and return their paths.

    summaries: system -> what its summary.json holds, of the systems that are finished; the others' rows stay empty;
    command: what made them.
    """
    written = []
    for table in tables:
        stem = out / f"table-{paper.tables.index(table) + 1}"
        scores = [row_scores(paper, row, summaries) for row in table.rows]
        source = _source(table, summaries, command)
        for suffix, content in ((".md", _markdown(paper, table, scores, source)), (".csv", _csv(table, scores))):
            path = stem.with_suffix(suffix)
            with replacing(path) as beside:
                beside.write_text(content, encoding="utf-8")
            written.append(path)
        picture = _plot(paper, table, scores, stem.with_suffix(".png")) if pictures else None
        written += [picture] if picture else []
    return written


def _columns(table: Table) -> list[str]:
    return [metric for metric in METRICS if any(metric in row.figures for row in table.rows)]


def _source(table: Table, summaries: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """What made a table's figures, on what, and at which commits."""
    runs = [summaries[system] for row in table.rows for system in row.systems if system in summaries]
    places = {f"{run['device']}, {run['precision']}, torch {run['versions']['torch']}" for run in runs}
    commits = sorted({run["commit"][:7] + run["commit"][40:] for run in runs if run["commit"]})
    found = [f"Dev scores of `{command}`", *sorted(places)]
    return ", ".join(found) + (f", at commit {' and '.join(commits)}." if commits else ".")


def _markdown(paper: Paper, table: Table, scores: Sequence[Mapping[str, float] | None], source: str) -> str:
    metrics = _columns(table)
    header = ["system", *(f"{_TITLES[metric]}: ours, paper, difference" for metric in metrics)]
    header += ["seconds", "seconds an epoch", "examples/s"]
    lines = [f"# {paper.title}: {table.title}", "", source]
    lines += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row, found in zip(table.rows, scores, strict=True):
        cells = [row.name]
        for metric in metrics:
            paper_figure, ours = row.figures.get(metric), (found or {}).get(metric)
            cells.append(f"{_number(ours)}, {_number(paper_figure)}, {_difference(ours, paper_figure)}")
        for name in ("seconds", "seconds_per_epoch", "examples_per_second"):
            cells.append("-" if found is None else f"{found[name]:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    tested = [row for row in table.rows if row.test]
    if tested:
        lines += ["", "The paper's test scores: " + "; ".join(_test_line(row) for row in tested) + "."]
    lines += ["", *(f"{note}" for note in table.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _test_line(row: Row) -> str:
    return f"{row.name}: " + ", ".join(f"{_TITLES[name]} {_number(value)}" for name, value in row.test.items())


def _csv(table: Table, scores: Sequence[Mapping[str, float] | None]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = _columns(table)
    extra = ["seconds", "seconds_per_epoch", "examples_per_second"]
    writer.writerow(
        ["system", *(f"{metric}_{part}" for metric in metrics for part in ("ours", "paper", "difference")), *extra]
    )
    for row, found in zip(table.rows, scores, strict=True):
        cells: list[Any] = [row.name]
        for metric in metrics:
            paper_figure, ours = row.figures.get(metric), (found or {}).get(metric)
            both = ours is not None and paper_figure is not None
            cells += [_rounded(ours), _rounded(paper_figure), _rounded(ours - paper_figure) if both else ""]
        writer.writerow([*cells, *(_rounded((found or {}).get(name)) for name in extra)])
    return text.getvalue()


def _plot(paper: Paper, table: Table, scores: Sequence[Mapping[str, float] | None], path: Path) -> Path | None:
    """Bars: the paper's figures and ours, a panel a metric; None on a machine without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    metrics, names = _columns(table), [row.name for row in table.rows]
    height = 1.2 + 0.42 * len(names)
    figure, panels = pyplot.subplots(
        1, len(metrics), figsize=(3 + 2.6 * len(metrics), height), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, metric in zip(panels[0], metrics, strict=True):
        for shift, label, values in (
            (-0.2, "paper", [row.figures.get(metric) for row in table.rows]),
            (0.2, "ours", [(found or {}).get(metric) for found in scores]),
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
