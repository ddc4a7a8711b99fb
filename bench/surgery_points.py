"""The tables and the plot of `bench.when_surgery_helps`: what each rule gains at a point, beside how tasks conflict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib

from concord.bert.files import replacing
from concord.train.outputs.advice import CONFLICT, TURN
from concord.train.papers.tables import main_score

matplotlib.use("Agg")  # the plot is written, never shown
from matplotlib import pyplot

Run = Mapping[str, Any]
_PLAIN = "none"
EVERY_RULE = "every-rule"  # the axis of the one point that all rules are tried at, which has a table of its own


def gains(runs: Sequence[Run], rule: str) -> tuple[float, float] | None:
    """By how much a rule changes the mean score of the tasks at a point: the mean over the seeds that both were run
    with, and its standard deviation (0 for one seed). None where there is no such seed.

    runs: of the point.
    """
    by_seed = {name: {run["settings"]["seed"]: run["mean"] for run in of(runs, name)} for name in (_PLAIN, rule)}
    found = [value - by_seed[_PLAIN][seed] for seed, value in by_seed[rule].items() if seed in by_seed[_PLAIN]]
    return (mean(found), stdev(found) if len(found) > 1 else 0.0) if found else None


def times(runs: Sequence[Run], rule: str) -> tuple[float, int] | None:
    """How many milliseconds of the processor a step takes more with a rule than without: the median over the points
    and seeds that both were run with, and how many these are; None where there is none."""
    found = []
    for own in points(runs).values():
        plain = {run["settings"]["seed"]: run["processor_seconds"] for run in of(own, _PLAIN)}
        for run in of(own, rule):
            if (before := plain.get(run["settings"]["seed"])) is not None:
                found.append((run["processor_seconds"] - before) / run["steps"] * 1000)
    return (median(found), len(found)) if found else None


def of(runs: Sequence[Run], rule: str) -> list[Run]:
    """The runs with a rule."""
    return [run for run in runs if run["settings"]["surgery"] == rule]


def points(runs: Sequence[Run]) -> dict[tuple[str, float], list[Run]]:
    """Axis and value -> the runs there, in the order in which they were made."""
    found: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        found.setdefault((run["axis"], run["value"]), []).append(run)
    return found


def conflict_map(runs: Sequence[Run]) -> dict[str, float] | None:
    """What the map of a point's runs without surgery says of the pair of tasks with the lowest mean cosine: cosine,
    conflicts (share of the steps), ratio (of the longer gradient's mean norm to the shorter one's), and of the pair
    with the highest the turn (PCGrad's, degrees a step), each as the mean over the seeds; None where there is no such
    run."""
    plain = of(runs, _PLAIN)
    if not plain:
        return None
    ratios = []
    for run in plain:
        short, long = sorted(norm for task, norm in run["norms"].items() if task in run["pair"].split("-"))
        ratios.append(long / short)
    return {
        "cosine": mean(run["cosine"] for run in plain),
        "conflicts": mean(run["conflicts"] for run in plain),
        "ratio": mean(ratios),
        "turn": mean(run["turn"] for run in plain),
    }


def points_table(command: str, runs: Sequence[Run]) -> str:
    """The tables as Markdown, with what made them: gains, scores by task, time, and every rule at one point."""
    places = sorted({f"{run['device']}, {run['precision']}, torch {run['versions']['torch']}" for run in runs})
    commits = sorted({run["commit"][:7] + run["commit"][40:] for run in runs if run["commit"]})
    runs, of_every_rule = _apart(runs)
    lines = [f"`{command}`, {', '.join(places)}, at commit {' and '.join(commits)}."]
    if runs:
        lines += ["", *_points_tables(runs)]
    if of_every_rule:
        lines += ["", *_every_rule_table(of_every_rule)]
    return "\n".join(lines) + "\n"


def _points_tables(runs: Sequence[Run]) -> list[str]:
    """Gains, scores by task, and time, of runs of which the first at each point is without surgery."""
    rules = _rules(runs)
    lines = _gains_table(rules, runs)
    lines += ["", "Each task's main dev metric, the mean over the seeds:", "", *_scores_table(rules, runs)]
    plain = median(run["processor_seconds"] / run["steps"] * 1000 for run in of(runs, _PLAIN))
    lines += ["", f"Processor time of a whole run over its steps: {plain:.1f} ms a step without surgery (median), and "]
    lines[-1] += "more than the same seed's without surgery (median over so many runs):"
    lines += ["", "| rule | ms a step more | runs |", "|---|---|---|"]
    return lines + [f"| {rule} | {found[0]:+.1f} | {found[1]} |" for rule in rules if (found := times(runs, rule))]


def _apart(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs without those of `EVERY_RULE`, and these."""
    return [run for run in runs if run["axis"] != EVERY_RULE], [run for run in runs if run["axis"] == EVERY_RULE]


def _rules(runs: Sequence[Run]) -> list[str]:
    """The rules of some runs but none, in the order in which they were run."""
    return [name for name in dict.fromkeys(run["settings"]["surgery"] for run in runs) if name != _PLAIN]


def _every_rule_table(runs: Sequence[Run]) -> list[str]:
    """Each rule at the one point: each task's score, the gain, and the time of a step."""
    plain = of(runs, _PLAIN)
    tasks, value = list(runs[0]["dev"]), runs[0]["value"]
    lines = [f"Every rule at {EVERY_RULE} {value:g}, the mean over {len(plain)} seed{'s' * (len(plain) > 1)}:", ""]
    header = ["rule", *tasks, "gain (deviation)", "ms a step more"]
    lines += [_row(header), "|---" * len(header) + "|"]
    for rule in (_PLAIN, *_rules(runs)):
        scores = [mean(main_score(run["dev"][task]) for run in of(runs, rule)) for task in tasks]
        gain, time = (None, None) if rule == _PLAIN else (gains(runs, rule), times(runs, rule))
        cells = [f"{gain[0]:+.3f} ({gain[1]:.3f})" if gain else "-", f"{time[0]:+.1f}" if time else "-"]
        lines.append(_row([rule, *(f"{score:.3f}" for score in scores), *cells]))
    return lines


def _gains_table(rules: Sequence[str], runs: Sequence[Run]) -> list[str]:
    header = ["axis", "value", "seeds", "cosine", "conflicts", "ratio of lengths", "PCGrad's turn a step"]
    header += ["mean score without surgery", *(f"{rule}: gain (deviation)" for rule in rules)]
    lines = [_row(header), "|---" * len(header) + "|"]
    for (axis, value), own in points(runs).items():
        found = conflict_map(own)
        if found is None:
            continue
        plain = of(own, _PLAIN)
        cells = [axis, f"{value:g}", str(len(plain)), f"{found['cosine']:+.3f}", f"{found['conflicts']:.0%}"]
        cells += [f"{found['ratio']:.1f}", f"{found['turn']:.1f}°", f"{mean(run['mean'] for run in plain):.3f}"]
        for rule in rules:
            gain = gains(own, rule)
            deviation = f" ({gain[1]:.3f})" if gain and len(plain) > 1 else ""  # of one seed there is none
            cells.append(f"{gain[0]:+.3f}{deviation}" if gain else "-")
        lines.append(_row(cells))
    return lines


def _scores_table(rules: Sequence[str], runs: Sequence[Run]) -> list[str]:
    lines = [_row(["axis", "value", "task", "without surgery", *rules]), "|---" * (4 + len(rules)) + "|"]
    for (axis, value), own in points(runs).items():
        for task in own[0]["dev"]:
            scores = [[main_score(run["dev"][task]) for run in of(own, rule)] for rule in (_PLAIN, *rules)]
            cells = [f"{mean(found):.3f}" if found else "-" for found in scores]
            lines.append(_row([axis, f"{value:g}", task, *cells]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw_points(runs: Sequence[Run], path: Path) -> None:
    """Draw what each rule gains, a dot a point: over the mean cosine of the two tasks' gradients without surgery, and
    over PCGrad's turn. Dashes are where a run's last line begins to speak of conflicts, and to advise surgery."""
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    runs, _ = _apart(runs)
    for rule in _rules(runs):
        found = [
            (found, *gain)
            for own in points(runs).values()
            if (found := conflict_map(own)) and (gain := gains(own, rule))
        ]
        if not found:
            continue
        maps, means, deviations = zip(*found, strict=True)
        for axes, name in zip(panels, ("cosine", "turn"), strict=True):
            places = [own[name] for own in maps]
            axes.errorbar(places, means, yerr=deviations, fmt="o", markersize=4, capsize=2, label=rule, alpha=0.8)
    for axes, threshold in zip(panels, (CONFLICT, TURN), strict=True):
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axvline(threshold, color="grey", linestyle="--", linewidth=0.8)
    panels[0].set_xlabel("mean cosine of the tasks' gradients, without surgery")
    panels[1].set_xlabel("PCGrad's turn without surgery, degrees a step")
    panels[0].set_ylabel("gain in the tasks' mean dev score")
    panels[1].legend()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
    pyplot.close(figure)
