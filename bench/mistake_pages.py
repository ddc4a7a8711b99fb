"""The pages of `bench.mistakes`: a table of kinds, and which of them are missed more or less often than the rest."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

_CLEARLY = 3.0  # standard errors by which two rates differ, for a page to call it clear
_FEWEST = 20  # examples of a kind of which that is said
# What a mistake is, and what its two directions are called, by the kind of the task.
_WORDS = {
    "classification": ("an answer that is not the label", "too high", "too low"),
    "binary": ("an answer that is not the label", "wrongly yes", "wrongly no"),
    "regression": ("an answer {least:g} of the label's points off, or more", "too high", "too low"),
}


def difference(kind: Mapping[str, Any], whole: Mapping[str, Any]) -> float:
    """By how many standard errors the error rate of a kind is above that of the other examples of the set; 0 where
    there are no others or no mistakes, or all are mistakes.

    The standard error is that of two independent shares with the set's own rate.
    """
    own, others = kind["examples"], whole["examples"] - kind["examples"]
    rate = whole["mistakes"] / whole["examples"]
    if not own or not others or rate in (0.0, 1.0):
        return 0.0
    gap = kind["mistakes"] / own - (whole["mistakes"] - kind["mistakes"]) / others
    return gap / sqrt(rate * (1 - rate) * (1 / own + 1 / others))


def page_of(task: str, results: Mapping[str, Any]) -> str:
    """The page of a task, as Markdown.

    results: as `bench.mistakes` writes them.
    """
    run, own = results["run"], results["tasks"][task]
    what, high, low = _WORDS[own["kind"]]
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in run["dev"][task].items())
    rate = own["mistakes"] / own["examples"]
    lines = [
        f"# Mistakes on {task}",
        "",
        f"`{results['command']}`, of the run",
        "",
        f"    {run['command']}",
        "",
        f"at commit {run['commit'][:7] if run['commit'] else 'unknown'} ({run['device']}, {run['precision']}, "
        f"its best model is that of step {run['best_step']} of {run['steps']}): {metrics} on "
        f"{own['examples']:,} dev examples. A mistake is {what.format(least=own['least_error'])}: {own['mistakes']:,} "
        f"of them, {rate:.1%} of the set, {own['too_high']:,} {high} and {own['too_low']:,} {low}.",
        "",
        "An example may be of several kinds. ± is one standard error of the rate; how many times the set's it is, the "
        "next column says. What a kind is, `bench/mistake_kinds.py` says in code.",
        "",
        f"| what | kind | examples | share of the set | mistakes | error rate | times the set's | {high} | {low} |",
        "|---" * 9 + "|",
        *(_row(kind, own) for kind in own["kinds"]),
        "",
        *_told(own),
    ]
    return "\n".join(lines) + "\n"


def _row(kind: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    count, wrong = kind["examples"], kind["mistakes"]
    cells = [kind["group"], kind["name"], f"{count:,}", f"{count / whole['examples']:.1%}", f"{wrong:,}"]
    if count:
        rate, usual = wrong / count, whole["mistakes"] / whole["examples"]
        cells += [f"{rate:.1%} ± {sqrt(rate * (1 - rate) / count):.1%}", f"{rate / usual:.2f}" if usual else "-"]
    else:
        cells += ["-", "-"]
    return "| " + " | ".join([*cells, f"{kind['too_high']:,}", f"{kind['too_low']:,}"]) + " |"


def _told(whole: Mapping[str, Any]) -> list[str]:
    """The kinds whose rate clearly differs from that of the other examples, those that differ most first."""
    kinds = [(difference(kind, whole), kind) for kind in whole["kinds"] if kind["examples"] >= _FEWEST]
    kinds.sort(key=lambda item: -abs(item[0]))
    lines = []
    for title, chosen in (
        ("Missed more often than the other examples", [kind for gap, kind in kinds if gap >= _CLEARLY]),
        ("Missed less often", [kind for gap, kind in kinds if gap <= -_CLEARLY]),
        ("No clear difference", [kind for gap, kind in kinds if abs(gap) < _CLEARLY]),
    ):
        names = "; ".join(
            f"{kind['group']}: {kind['name']} ({kind['mistakes'] / kind['examples']:.1%})" for kind in chosen
        )
        lines.append(f"- **{title}**: {names or 'no kind'}.")
    return [
        f"Of the kinds with {_FEWEST} examples or more, by {_CLEARLY:g} standard errors of the difference from the "
        "examples that are not of the kind:",
        "",
        *lines,
    ]
