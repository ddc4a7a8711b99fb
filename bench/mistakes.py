"""What kinds of dev examples a run answers wrongly: python -m bench.mistakes RUN --data DIR [--out DIR]

Reads the answers of the run's best model and the texts of the dev sets, sorts the examples into the kinds of
`bench.mistake_kinds`, and writes results.json (counts and the run's settings, no texts) and, from it alone, a page a
task. `--pages` writes the pages anew from the results that are there.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.mistake_kinds import Case, kinds_of
from bench.mistake_pages import page_of
from concord.bert.errors import InputError, shown
from concord.bert.files import read_json_object, write_text
from concord.train.command import run_command
from concord.train.data.course import read_split
from concord.train.data.tasks import BUILT_IN_TASKS, Example, Task
from concord.train.flags import OneLineParser
from concord.train.outputs.dev_answers import DevAnswers
from concord.train.outputs.log import WHOLE_MODEL
from concord.train.reports.page import command_of
from concord.train.reports.stored_run import StoredRun, read_run

RESULTS = "results.json"
_OFF = 0.2  # of a regression's range: an answer that is as far from the label, or farther, is a mistake
_KEPT = ("best_step", "steps", "device", "precision", "kernels", "products", "versions", "commit")
_KEPT += ("dev", "thresholds", "finished")


def mistakes(run: StoredRun, data: Path) -> dict[str, Any]:
    """The counts of a run's mistakes by kind, and which run it was; without any text of the data.

    data: the folder of the run's data, in the course layout. InputError where the run is not done, has a task that is
    not one of the course's, or answered other dev sets than these.
    """
    if not run.summary:
        raise InputError(f"{run.directory}: the run is {run.state.name}, expected one that is done")
    for task in run.tasks:
        if task not in BUILT_IN_TASKS:
            raise InputError(f"{run.directory}: task {task.name}, expected tasks of the course alone")
        if task.name not in run.answers:
            raise InputError(f"{run.directory}: no dev answers of {task.name} are kept")
    command = command_of(replace(run, settings={**run.settings, "--data": "DIR"})).rpartition(" --out ")[0]
    found = {
        task.name: _counts(task, run.answers[task.name], _texts(task, run.answers[task.name], data))
        for task in run.tasks
    }
    of_run = {"command": command, **{name: run.summary[name] for name in _KEPT}}
    return {"run": of_run | {"surgery": run.summary["surgery"][WHOLE_MODEL]}, "tasks": found}


def _texts(task: Task, answers: DevAnswers, data: Path) -> list[Example]:
    """The dev examples that were answered, in the answers' order."""
    split = read_split(task, data, "dev", skip_bad_rows=True)
    by_id = {example.id: example for example in split.examples}
    if len(by_id) < len(split.examples):
        raise InputError(f"{data}: task {task.name} has dev examples with the same id, expected different ones")
    for name, gold in zip(answers.ids, answers.gold, strict=True):
        if name not in by_id or np.float32(by_id[name].label) != np.float32(gold):
            raise InputError(f"{data}: the run's dev set of {task.name} has {shown(name)} with the label {gold:g}")
    return [by_id[name] for name in answers.ids]


def _counts(task: Task, answers: DevAnswers, examples: Sequence[Example]) -> dict[str, Any]:
    difference = answers.predicted - answers.gold
    least = _OFF * (task.high - task.low) if task.kind == "regression" else 0.5
    high, low = difference >= least, difference <= -least
    cases = [Case(example) for example in examples]

    def counted(chosen: np.ndarray) -> dict[str, int]:
        too_high, too_low = int((high & chosen).sum()), int((low & chosen).sum())
        return {"examples": int(chosen.sum()), "mistakes": too_high + too_low, "too_high": too_high, "too_low": too_low}

    whole = counted(np.ones(len(cases), dtype=bool))
    kinds = [
        {"group": kind.group, "name": kind.name, **counted(np.array([kind.holds(case) for case in cases]))}
        for kind in kinds_of(task)
    ]
    return {"kind": task.kind, "least_error": least if task.kind == "regression" else None, **whole, "kinds": kinds}


def write_pages(out: Path, results: Mapping[str, Any]) -> list[Path]:
    """Write a page a task, TASK.md, from results; their paths."""
    paths = []
    for task in results["tasks"]:
        paths.append(out / f"{task}.md")
        write_text(paths[-1], page_of(task, results))
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(prog="python -m bench.mistakes", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="the folder of a run that is done")
    parser.add_argument("--data", help="its data, in the course layout")
    parser.add_argument("--out", default="docs/papers/mistakes", help="folder of the results")
    parser.add_argument("--pages", action="store_true", help="only write the pages anew")
    given = vars(parser.parse(arguments))
    out = Path(given["out"])
    if given["pages"]:
        if given["run"] is not None:
            raise InputError(f"--pages {given['run']}: expected no run, the results that are there are read")
        results = read_json_object(out / RESULTS, "mistakes by kind")
    else:
        if given["run"] is None or given["data"] is None:
            raise InputError("expected a run and --data, or --pages")
        found = mistakes(read_run(Path(given["run"])), Path(given["data"]))
        results = {"command": shlex.join(["python", "-m", "bench.mistakes", "RUN", "--data", "DIR"]), **found}
        write_text(out / RESULTS, json.dumps(results, indent=1) + "\n")
    for path in write_pages(out, results):
        print(f"written    {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
