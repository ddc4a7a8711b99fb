"""When gradient surgery helps: python -m bench.when_surgery_helps --data DIR [--axes opposed,course] [--seeds 1,2] ...

Trains a small model on SST (plain) beside a second task made of it, whose labels are others (`bench.relabelled`), or on
tasks of the data as they are. Each point of an axis is run with each rule and seed. A finished run is an entry of
results.json, and is not run again; table.md and conflicts.png are made from it.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.relabelled import Relabelled
from bench.surgery_points import EVERY_RULE, draw_points, points_table
from concord.bert.errors import InputError, did_you_mean
from concord.bert.files import make_folder, read_json_object, write_text
from concord.train import run
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.papers.budgets import flags_of
from concord.train.processes import alone
from concord.train.seeds import parse_seeds
from concord.train.settings.tables import RULES as ALL_RULES

RULES = ("none", "pcgrad", "gradvac", "mgda", "cagrad")
_OF_MANY = (*RULES, "upgrad")  # of two tasks UPGrad's update has the direction of PCGrad's
_KEPT = ("dev", "mean", "best_step", "steps", "seconds", "examples_per_second", "device", "precision", "versions")
_KEPT += ("advice", "commit", "finished")
_SETTINGS: dict[str, Any] = {"model": "tiny", "learning_rate": 1e-3, "head_learning_rate": ("1e-2",), "epochs": 30}
_SETTINGS |= {"skip_test": True, "log_every": 5}


@dataclass(frozen=True)
class Point:
    """A point of an axis.

    Attributes:
        value: where it lies on the axis.
        tasks: that are made of SST; None where the runs have tasks of the data as they are.
        settings: of the runs there, over those that all have.
        rules: that are tried there.
    """

    value: float
    tasks: Relabelled | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: Sequence[str] = RULES


_ONE_HEAD = {"heads": ("bench.fixed_head:fixed_head",)}
_SAME = {"batching": "bench.relabelled:same_sentences"}
_LARGE = {"batch_size": 64, "max_steps": 400, "evaluate_every": 100}
_SMALL = {"batch_size": 16, "max_steps": 800, "evaluate_every": 400}
_PRETRAINED = {"model": "minilm", "learning_rate": 1e-4}
_OPPOSED = Relabelled(sides=True)
_AS_THEY_ARE = {**_SMALL, "dev_examples": 1000, "max_length": 128}


def _weighted(weight: float, tasks: Relabelled, *settings: Mapping[str, Any]) -> Point:
    """A point whose value is the weight of the second task's loss, beside a weight of 1."""
    found: dict[str, Any] = {"loss_weights": ("1", f"{tasks.second}={weight:g}")}
    for part in settings:
        found |= part
    return Point(weight, tasks, found)


# What is varied -> its points.
AXES = {
    "opposed": [_weighted(weight, _OPPOSED, _ONE_HEAD, _SAME, _LARGE) for weight in (1.0, 0.3, 0.1, 0.03)],
    EVERY_RULE: [replace(_weighted(0.1, _OPPOSED, _ONE_HEAD, _SAME, _LARGE), rules=ALL_RULES.names)],
    "longer": [_weighted(weight, _OPPOSED, _ONE_HEAD, _SAME, _LARGE, {"max_steps": 1500}) for weight in (1.0, 0.1)],
    "other-sentences": [_weighted(0.1, _OPPOSED, _ONE_HEAD, _LARGE)],
    "small-batches": [_weighted(0.1, _OPPOSED, _ONE_HEAD, _SAME, _SMALL)],
    "own-heads": [_weighted(0.1, _OPPOSED, _SAME, _LARGE)],
    "unmarked": [_weighted(0.1, Relabelled(sides=True, marked=False), _ONE_HEAD, _SAME, _LARGE)],
    "half-opposed": [_weighted(0.1, Relabelled(sides=True, share=0.5), _ONE_HEAD, _SAME, _LARGE)],
    "large-rate": [_weighted(0.1, _OPPOSED, _ONE_HEAD, _SAME, _LARGE, {"learning_rate": 3e-3})],
    "five-classes": [_weighted(weight, Relabelled(), _ONE_HEAD, _SMALL) for weight in (1.0, 0.1)],
    "rotated": [_weighted(weight, Relabelled("rotated"), _ONE_HEAD, _SMALL) for weight in (1.0, 0.1)],
    "course": [Point(rate, None, _AS_THEY_ARE | {"learning_rate": rate}, _OF_MANY) for rate in (1e-3, 3e-3)],
    "course-pretrained": [Point(1e-4, None, _AS_THEY_ARE | _PRETRAINED | {"max_steps": 400})],
    "sst-cfimdb": [Point(1e-3, None, _AS_THEY_ARE | {"tasks": ("sst", "cfimdb")})],
    "pretrained": [_weighted(0.1, _OPPOSED, _ONE_HEAD, _SAME, _LARGE, _PRETRAINED, {"max_steps": 200})],
}


Chosen = Sequence[tuple[str, Point]]  # axes, each with one of its points


def chosen_points(text: str) -> Chosen:
    """The points that --axes names: of whole axes, or AXIS:VALUE for one; InputError for what there is not."""
    found = []
    for item in text.split(","):
        axis, colon, value = item.partition(":")
        if axis not in AXES:
            raise InputError(f"--axes {item}: {did_you_mean(axis, list(AXES))}")
        own = [(axis, point) for point in AXES[axis] if not colon or f"{point.value:g}" == value]
        if not own:
            values = ", ".join(f"{point.value:g}" for point in AXES[axis])
            raise InputError(f"--axes {item}: expected one of the values {values}")
        found += own
    return found


def _planned(chosen: Chosen, seeds: Sequence[int]) -> Iterator[tuple[str, Point, dict[str, Any]]]:
    """Each run of the points: its axis, its point and its own settings."""
    for axis, point in chosen:
        for seed in seeds:
            for rule in point.rules:
                yield axis, point, {**_SETTINGS, **point.settings, "surgery": rule, "seed": seed}


def experiment(data: Path, chosen: Chosen, seeds: Sequence[int], out: Path, runs: Path, command: str) -> None:
    """Run what results.json in `out` does not have yet, and write it and the table after each run, the plot at the end.

    data: in the course layout; runs: a folder for data and runs, whose parts are removed again; command: the command
    line that makes it.
    """
    path = out / "results.json"
    found = _kept_runs(path) if path.exists() else []
    for axis, point, settings in _planned(chosen, seeds):
        plain = json.loads(json.dumps(settings))
        made = asdict(point.tasks) if point.tasks else None
        key = {"axis": axis, "value": point.value, "tasks": made, "settings": plain}
        if any(all(one[name] == value for name, value in key.items()) for one in found):
            continue
        shutil.rmtree(runs / "run", ignore_errors=True)  # what a run that was broken off has left
        tasks = point.tasks.write(data, runs / "data") if point.tasks else data
        arguments = ["--data", str(tasks), "--skip-bad-rows", *flags_of(settings), "--out", str(runs / "run")]
        began = time.process_time()
        summary = run.main(arguments)
        processor = time.process_time() - began  # whatever else the machine does meanwhile
        whole = summary["surgery"]["model"]
        name, pair = min(whole["pairs"].items(), key=lambda item: item[1]["mean_cosine"])
        result = {"pair": name, "cosine": pair["mean_cosine"], "conflicts": pair["share"]}
        result |= {
            "turn": max(abs(turn or 0.0) for turn in summary["turns"].values()),
            "change": whole["change"],
            "norms": whole["gradient_norms"],
        }
        result |= {"processor_seconds": round(processor, 3)}
        result |= {name: summary[name] for name in _KEPT}
        found.append({**key, **result})
        shutil.rmtree(runs / "run")
        if point.tasks:
            shutil.rmtree(runs / "data")
        write_text(path, json.dumps({"command": command, "runs": found}, indent=1) + "\n")
        write_text(out / "table.md", points_table(command, found))
    write_text(out / "table.md", points_table(command, found))
    draw_points(found, out / "conflicts.png")


def _kept_runs(path: Path) -> list[dict[str, Any]]:
    """The runs in a file of results; InputError where one had other settings than its point has."""
    found = read_json_object(path, "the results of an experiment")["runs"]
    for one in found:
        own = {name: value for name, value in one["settings"].items() if name not in ("surgery", "seed")}
        points = [point for point in AXES.get(one["axis"], []) if point.value == one["value"]]
        if own not in [json.loads(json.dumps({**_SETTINGS, **point.settings})) for point in points]:
            raise InputError(f"{path}: {one['axis']} {one['value']:g} had other settings; give another --out")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m bench.when_surgery_helps",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("--data", required=True, help="a directory in the course layout")
    parser.add_argument(
        "--axes", default=",".join(AXES), help=f"what is varied, or AXIS:VALUE for a point (default {','.join(AXES)})"
    )
    parser.add_argument("--seeds", default="1,2,3", help="of each point (default 1,2,3)")
    parser.add_argument("--out", default="docs/surgery", help="folder of the results (default docs/surgery)")
    parser.add_argument("--runs", default="runs/surgery", help="folder for the runs (default runs/surgery)")
    given = vars(parser.parse(arguments))
    chosen = chosen_points(given["axes"])
    seeds = parse_seeds(given["seeds"], fewest=1)
    command = "python -m bench.when_surgery_helps --data DIR"
    out, runs = Path(given["out"]), Path(given["runs"])
    make_folder(runs)
    with alone(runs):  # whose parts are removed
        experiment(Path(given["data"]), chosen, seeds, out, runs, command)


if __name__ == "__main__":
    sys.exit(run_command(main))
