"""Which rate suits the encoder in the papers' systems: python -m bench.paper_rates --data DIR [--out DIR] ...

Trains one system for some steps at each of several rates, as `train.reproduce --budget standard` would but for the
steps, judges it on evenly spaced dev examples, and writes rates.json and rates.md, after each of them: a command that
was stopped goes on with the rates that are not there. What a system of another paper has
as its rate is multiplied by the same factor, so that all rows of a table keep their relations.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import make_folder, read_json_object, replacing
from concord.train import run
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.papers.budgets import BUDGETS, budgeted, flags_of
from concord.train.papers.tables import main_score
from concord.train.settings.recipes import read_recipe

_WITH = " --rates "  # stands last in the command, since more may be tried by another one
_RATES = "1e-5,2e-5,5e-5,1e-4,2e-4"
_KEPT = ("dev", "overall", "best_step", "examples", "steps", "seconds", "examples_per_second", "device", "precision")
_KEPT += ("versions", "commit", "finished")


def search(
    system: str,
    rates: Sequence[float],
    steps: int,
    runs_in: Path,
    more: Mapping[str, Any],
    before: Sequence[dict[str, Any]] = (),
) -> Iterator[dict[str, Any]]:
    """Train at each rate in a folder of its own, which is removed afterwards; yields what is found so far after each.

    system: the recipe's name; rates: peak rates of the encoder; steps: of each run; runs_in: where the
    folders are; more: settings of every run; before: earlier runs, whose rates are not tried again.
    """
    settings = read_recipe(system).settings
    runs = list(before)
    for rate in rates:
        if any(one["rate"] == rate for one in runs):
            continue
        budget = replace(BUDGETS["standard"], steps=steps, rate=rate / settings["learning_rate"])
        found = budgeted(settings, budget) | {"evaluate_every": 0} | more
        folder = runs_in / f"rate-{rate:g}"
        shutil.rmtree(folder, ignore_errors=True)  # what a run that was broken off has left
        summary = run.main(["--recipe", system, *flags_of(found), "--out", str(folder)])
        kept = {name: summary[name] for name in _KEPT}
        shown = {name: value for name, value in found.items() if name != "data"}
        runs.append({"rate": rate, "factor": rate / settings["learning_rate"], "settings": shown, **kept})
        shutil.rmtree(folder)
        runs.sort(key=lambda one: one["rate"])
        best = max(runs, key=lambda one: one["overall"])
        yield {"system": system, "paper_rate": settings["learning_rate"], "chosen": best["rate"], "runs": runs}


def table(found: Mapping[str, Any]) -> str:
    """The page about a search, as Markdown."""
    first = found["runs"][0]
    lines = ["# The encoder's rate in the papers' systems", ""]
    lines += [
        f"`{found['command']}`: {found['system']} after {first['steps']} steps at each rate, on {first['device']}, "
        f"{first['precision']}, torch {first['versions']['torch']}, at commit {first['commit'] or 'unknown'}. Dev "
        f"scores of {found['dev_examples']} examples a task at most.",
        "",
        f"The highest overall score is that of {found['chosen']:g}, {found['chosen'] / found['paper_rate']:g} times "
        f"the paper's rate{_at_the_edge(found)}. The papers' other rates are multiplied by the same number.",
        "",
    ]
    tasks = list(first["dev"])
    lines += ["| rate | " + " | ".join([*tasks, "overall", "seconds"]) + " |", "|---" * (len(tasks) + 3) + "|"]
    for one in found["runs"]:
        scores = [main_score(one["dev"][task]) for task in tasks]
        cells = [f"{score:.3f}" for score in (*scores, one["overall"])]
        lines.append(f"| {one['rate']:g} | " + " | ".join([*cells, f"{one['seconds']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def _at_the_edge(found: Mapping[str, Any]) -> str:
    """What a reader has to know where no rate on one side of the chosen one was tried."""
    rates = [one["rate"] for one in found["runs"]]
    for edge, word in ((min(rates), "lower"), (max(rates), "higher")):
        if found["chosen"] == edge:
            return f" (no {word} one was tried)"
    return ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m bench.paper_rates", description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--system", default="optimusbert/multitask", help="the recipe (default optimusbert/multitask)")
    parser.add_argument("--rates", default=_RATES, help=f"of the encoder (default {_RATES})")
    parser.add_argument("--steps", type=int, default=300, help="of each run (default 300)")
    parser.add_argument("--out", default="docs/papers", help="folder of rates.json and rates.md (default docs/papers)")
    parser.add_argument("--runs", default="runs/rates", help="folder for the runs (default runs/rates)")
    parser.add_argument("--dev-examples", type=int, default=1101, help="that judge each task (default 1101)")
    parser.add_argument("--data", help="as for python -m train.run")
    parser.add_argument("--model", help="as for python -m train.run")
    parser.add_argument("--skip-bad-rows", action="store_true", help="as for python -m train.run")
    given = vars(parser.parse(arguments))
    system, out, steps = given.pop("system"), Path(given.pop("out")), given.pop("steps")
    runs_in = Path(given.pop("runs"))
    rates = [_rate(text) for text in given.pop("rates").split(",")]
    named = {"system": system, "steps": steps} | given | ({"data": "DIR"} if "data" in given else {})
    command = shlex.join(["python", "-m", "bench.paper_rates", *flags_of(named)])
    make_folder(out)
    path = out / "rates.json"
    kept = read_json_object(path, "the results of a search") if path.exists() else {}
    before = kept["runs"] if str(kept.get("command")).partition(_WITH)[0] == command else []
    for found in search(system, rates, steps, runs_in, given, before):
        tried = ",".join(f"{one['rate']:g}" for one in found["runs"])
        found = {"command": f"{command}{_WITH}{tried}", "dev_examples": given["dev_examples"]} | found
        for name, content in (("rates.json", json.dumps(found, indent=1) + "\n"), ("rates.md", table(found))):
            with replacing(out / name) as beside:
                beside.write_text(content, encoding="utf-8")
        print(f"chosen     {found['chosen']:g} of {len(found['runs'])} rates ({out / 'rates.md'})", flush=True)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise InputError(f"--rates {text}: expected rates between 0 and 1, with commas")
    return rate


if __name__ == "__main__":
    sys.exit(run_command(main))
