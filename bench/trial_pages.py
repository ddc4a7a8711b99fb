"""The page about the trials of `bench.best_trials`: what each reached, and its curves' last evaluations."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from concord.train.papers.tables import main_score

Result = Mapping[str, Any]
_LAST = 6  # evaluations, whose mean wavers less than the best one
_TASKS = ("sst", "paraphrase", "sts")
_GOALS = {"sst": 0.515, "paraphrase": 0.875, "sts": 0.885}  # what the trials are for, as the mean of three seeds


def trials_page(found: Sequence[Result]) -> str:
    """The page as Markdown, from results in the order in which they are to stand."""
    places = sorted({f"{one['device']}, {one['precision']}, torch {one['versions']['torch']}" for one in found})
    commits = list(dict.fromkeys(one["commit"][:7] + one["commit"][40:] for one in found if one["commit"]))
    lines = ["# Trials of concord/best", ""]
    lines += [
        f"`python -m bench.best_trials --data DIR`, {', '.join(places)}, at commit {' and '.join(commits)}. Each is "
        "the recipe in [recipe.toml](recipe.toml), with the changes that are said below. Scores are "
        "those of the best model of a run, paraphrase on all dev pairs, beside them the mean of the run's last "
        f"{_LAST} evaluations (paraphrase on {found[0]['settings']['dev_examples']} pairs).",
        "",
    ]
    header = ["trial", "seed", *(f"{task} (last {_LAST})" for task in _TASKS), "mean", "best step", "minutes"]
    lines += [_row(header), "|---" * len(header) + "|"]
    for one in found:
        cells = [one["trial"], str(one["settings"]["seed"])]
        cells += [f"{score_text(main_score(one['all_dev'][task]))} ({score_text(_last(one, task))})" for task in _TASKS]
        cells += [score_text(_mean(one)), f"{one['best_step']} of {one['steps']}", f"{one['seconds'] / 60:.0f}"]
        lines.append(_row(cells))
    by_trial = _by_trial(found)
    if several := _of_several_seeds(by_trial):
        lines += ["", "Mean and standard deviation over the seeds:", ""]
        header = ["trial", "seeds", *_TASKS, "mean"]
        goals = [*_GOALS.values(), mean(_GOALS.values())]
        lines += [_row(header), "|---" * len(header) + "|", *several, _row(["goal", "-", *map(score_text, goals)])]
    lines += [
        "",
        "The tasks' own gradients in the steps that were logged: their mean norms; the mean cosine and the share of "
        "steps in conflict, each from the least of the pairs to the most; and how far surgery moved the sum, over its "
        "norm:",
    ]
    header = ["trial", *(f"norm of {task}" for task in _TASKS), "mean cosines", "in conflict", "change"]
    lines += ["", _row(header), "|---" * len(header) + "|", *map(_gradients, by_trial.values())]
    lines += ["", *(f"- **{name}**: {what}." for name, what in {one["trial"]: one["what"] for one in found}.items())]
    return "\n".join(lines) + "\n"


def _by_trial(found: Sequence[Result]) -> dict[str, list[Result]]:
    by_trial: dict[str, list[Result]] = {}
    for one in found:
        by_trial.setdefault(one["trial"], []).append(one)
    return by_trial


def _gradients(own: Sequence[Result]) -> str:
    """A trial's row of gradients, the means over its seeds."""
    maps = [one["surgery"] for one in own]
    norms = [f"{mean(one['gradient_norms'][task] for one in maps):.1f}" for task in _TASKS]
    cosines, shares = (
        sorted(mean(one["pairs"][pair][name] for one in maps) for pair in maps[0]["pairs"])
        for name in ("mean_cosine", "share")
    )
    change = f"{mean(one['change'] for one in maps):.1%}"
    row = [own[0]["trial"], *norms, f"{cosines[0]:+.3f} to {cosines[-1]:+.3f}", f"{shares[0]:.0%} to {shares[-1]:.0%}"]
    return _row([*row, change])


def _of_several_seeds(by_trial: Mapping[str, Sequence[Result]]) -> list[str]:
    rows = []
    for name, own in by_trial.items():
        if len(own) < 2:
            continue
        values = [[main_score(one["all_dev"][task]) for one in own] for task in _TASKS] + [[_mean(one) for one in own]]
        rows.append(
            _row(
                [name, str(len(own)), *(f"{score_text(mean(value))} ± {score_text(stdev(value))}" for value in values)]
            )
        )
    return rows


def _mean(one: Result) -> float:
    return mean(main_score(one["all_dev"][task]) for task in _TASKS)


def _last(one: Result, task: str) -> float:
    return mean(main_score(evaluation["dev"][task]) for evaluation in one["evaluations"][-_LAST:])


def score_text(value: float) -> str:
    """A score as the papers print it, .503."""
    return f"{value:.3f}".lstrip("0")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
