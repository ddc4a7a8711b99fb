"""When gradient surgery helps: python -m bench.when_surgery_helps --data DIR [--axes share,course] [--seeds 1,2,3] ...

Trains a small model on SST (plain) beside a second task made of it, whose labels are others for a share of the
sentences: mirrored (very negative is very positive), or rotated by two (very negative is neutral), so that the classes'
shares differ, too. Some axes take tasks of the data as they are instead. Each point of an
axis is run with each rule and seed. A finished run is an entry of results.json, and is not run again; table.md and
conflicts.png are made from it.
"""

import csv
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.surgery_points import draw_points, points_table
from concord.bert.errors import InputError, did_you_mean
from concord.bert.files import make_folder, read_json_object, replacing
from concord.train import run
from concord.train.command import run_command
from concord.train.data.course import read_split
from concord.train.data.tasks import BUILT_IN_TASKS
from concord.train.flags import OneLineParser
from concord.train.papers.budgets import flags_of

RULES = ("none", "pcgrad", "gradvac", "mgda", "cagrad")
_OF_MANY = (*RULES, "upgrad")  # of two tasks UPGrad's update has the direction of PCGrad's
_CLASSES = 5
# What the second task is called -> its label in the place of another; each of its sentences begins with its name.
RELABELLED: dict[str, Callable[[int], int]] = {
    "mirrored": lambda label: _CLASSES - 1 - label,
    "rotated": lambda label: (label + 2) % _CLASSES,
}
_KEPT = ("dev", "mean", "best_step", "steps", "seconds", "examples_per_second", "device", "precision", "versions")
_KEPT += ("commit", "finished")
_SETTINGS: dict[str, Any] = {"model": "tiny", "learning_rate": 1e-3, "head_learning_rate": ("1e-2",), "batch_size": 16}
_SETTINGS |= {"max_steps": 800, "epochs": 3, "evaluate_every": 400, "skip_test": True, "log_every": 100}


@dataclass(frozen=True)
class Point:
    """A point of an axis.

    Attributes:
        value: where it lies on the axis.
        mirrored: share of the second task's sentences whose labels are others, in [0, 1]; None where the runs have
            tasks of the data as they are, which their settings name.
        settings: of the runs there, over those that all have.
        rules: that are tried there.
        second: the second task, of `RELABELLED`.
    """

    value: float
    mirrored: float | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: Sequence[str] = RULES
    second: str = "mirrored"


_WEIGHTS = (0.1, 10.0)
_ONE_HEAD = {"heads": ("bench.fixed_head:fixed_head",)}
_AS_THEY_ARE = {"dev_examples": 1000, "max_length": 128}


def _weighted(weight: float, second: str = "mirrored") -> dict[str, Any]:
    return {"loss_weights": ("1", f"{second}={weight:g}")}


def _rotated(weight: float) -> Point:
    settings = _ONE_HEAD | _weighted(weight, "rotated") | {"max_steps": 500, "evaluate_every": 250}
    return Point(weight, 1.0, settings, second="rotated")


# What is varied -> its points.
AXES = {
    "share": [Point(1.0, 1.0)],
    "share-one-head": [Point(share, share, _ONE_HEAD) for share in (0.0, 0.5, 1.0)],
    "weight": [Point(weight, 1.0, _weighted(weight)) for weight in _WEIGHTS],
    "weight-one-head": [Point(weight, 1.0, _ONE_HEAD | _weighted(weight)) for weight in _WEIGHTS],
    "rotated-one-head": [_rotated(weight) for weight in (1.0, 0.1)],
    "rate-one-head": [Point(rate, 1.0, _ONE_HEAD | {"learning_rate": rate}) for rate in (3e-3, 1e-2)],
    "course": [Point(rate, None, _AS_THEY_ARE | {"learning_rate": rate}, _OF_MANY) for rate in (1e-3, 3e-3)],
    "sst-cfimdb": [Point(1e-3, None, _AS_THEY_ARE | {"tasks": ("sst", "cfimdb")})],
    "pretrained-one-head": [Point(1.0, 1.0, _ONE_HEAD | {"model": "minilm", "learning_rate": 1e-4, "max_steps": 200})],
}


def write_data(directory: Path, mirrored: float, out: Path, second: str = "mirrored") -> Path:
    """Write the two tasks' tables and their tasks.toml into `out`, and return its path.

    directory: in the course layout; mirrored: the share of sentences whose label is another in the second task, evenly
    spread over training and dev set; second: that task, of `RELABELLED`. Its sentences begin with a word that tells it
    from the first, so that an encoder can answer both however their labels differ.
    """
    make_folder(out)
    sst = next(task for task in BUILT_IN_TASKS if task.name == "sst")
    lines = []
    for task, share, prefix in (("plain", 0.0, ""), (second, mirrored, f"{second} : ")):
        lines += [f"[{task}]", 'text_columns = ["text"]', 'label_column = "label"', 'kind = "classification"']
        for key, split in (("train", "train"), ("validation", "dev")):
            found = read_split(sst, directory, split, skip_bad_rows=True)
            path = out / f"{task}-{split}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "text", "label"])
                for place, example in enumerate(found.examples if found else []):
                    flipped = int((place + 1) * share) > int(place * share)
                    label = RELABELLED[second](int(example.label)) if flipped else int(example.label)
                    writer.writerow([example.id, prefix + example.first, label])
            lines.append(f'{key} = "{path.name}"')
    tasks = out / "tasks.toml"
    tasks.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tasks


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
    """Run what results.json in `out` does not have yet, and write it, the table and the plot after each run.

    data: in the course layout; runs: a folder for data and runs, whose parts are removed again; command: the command
    line that makes it.
    """
    path = out / "results.json"
    found = _kept_runs(path) if path.exists() else []
    for axis, point, settings in _planned(chosen, seeds):
        plain = json.loads(json.dumps(settings))
        key = {"axis": axis, "value": point.value, "mirrored": point.mirrored, "settings": plain}
        if any(all(one[name] == value for name, value in key.items()) for one in found):
            continue
        shutil.rmtree(runs / "run", ignore_errors=True)  # what a run that was broken off has left
        tasks = data if point.mirrored is None else write_data(data, point.mirrored, runs / "data", point.second)
        arguments = ["--data", str(tasks), "--skip-bad-rows", *flags_of(settings), "--out", str(runs / "run")]
        began = time.process_time()
        summary = run.main(arguments)
        processor = time.process_time() - began  # whatever else the machine does meanwhile
        whole = summary["surgery"]["model"]
        name, pair = min(whole["pairs"].items(), key=lambda item: item[1]["mean_cosine"])
        result = {"pair": name, "cosine": pair["mean_cosine"], "conflicts": pair["share"]}
        result |= {"change": whole["change"], "norms": whole["gradient_norms"]}
        result |= {"processor_seconds": round(processor, 3)}
        result |= {name: summary[name] for name in _KEPT}
        found.append({**key, **result})
        shutil.rmtree(runs / "run")
        if point.mirrored is not None:
            shutil.rmtree(runs / "data")
        _write(path, json.dumps({"command": command, "runs": found}, indent=1) + "\n")
    _write(out / "table.md", points_table(command, found))
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


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


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
    if not all(seed.isdecimal() for seed in given["seeds"].split(",")):
        raise InputError(f"--seeds {given['seeds']}: expected whole numbers with commas")
    seeds = [int(seed) for seed in given["seeds"].split(",")]
    command = "python -m bench.when_surgery_helps --data DIR"
    experiment(Path(given["data"]), chosen, seeds, Path(given["out"]), Path(given["runs"]), command)


if __name__ == "__main__":
    sys.exit(run_command(main))
