"""What would make concord/best better: python -m bench.best_trials --data DIR [--trials A,B] [--seeds 1] ...

Each trial is the recipe that concord/best was before them (docs/best/trials/recipe.toml) with some changes, one for
each task at most, so that each task's score tells of its own: the tasks' gradients are nearly orthogonal. A finished
run is a file NAME.json in the folder of results, with -seed-N of another seed than 1, and is not run again; trials.md
is made from these files.
"""

import csv
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.implied_pairs import implied_pairs
from bench.trial_pages import trials_page
from concord.bert.errors import InputError, did_you_mean
from concord.bert.files import make_folder, read_json_object, write_text
from concord.train import evaluate, run
from concord.train.command import run_command
from concord.train.data.course import read_split
from concord.train.data.tasks import BUILT_IN_TASKS
from concord.train.flags import OneLineParser
from concord.train.outputs.log import WHOLE_MODEL, read_lines
from concord.train.outputs.names import METRICS_FILE
from concord.train.papers.budgets import flags_of
from concord.train.papers.results import digest_of
from concord.train.processes import alone
from concord.train.seeds import parse_seeds

RECIPE = Path(__file__).resolve().parents[1] / "docs" / "best" / "trials" / "recipe.toml"
_TASKS = tuple(task for task in BUILT_IN_TASKS if task.name in ("sst", "paraphrase", "sts"))
_JUDGED = {"amp": "auto", "evaluate_every": 100, "dev_examples": 3000, "skip_test": True}
_MOST_IMPLIED = 5000  # pairs of either label
_KEPT = ("dev", "mean", "best_step", "steps", "examples", "seconds", "examples_per_second", "device", "precision")
_KEPT += ("kernels", "products", "thresholds", "versions", "commit", "finished")


@dataclass(frozen=True)
class Trial:
    """A change of the recipe.

    Attributes:
        what: is tried, a phrase for each task that it changes.
        settings: over the recipe's.
        implied: whether pairs whose label follows from others are added to the paraphrases.
    """

    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    implied: bool = False


_PARTS = "bench.trial_parts"
_UNORDERED = f"paraphrase={_PARTS}:unordered_head"
_BEST = {"batching": f"{_PARTS}:sts_twice", "loss_weights": ("1", "sts=16")}  # what became of the trials
TRIALS = {
    "recipe": Trial("the recipe as it is"),
    "neighbours-unordered-16": Trial(
        "SST: a tenth of a label's probability to each class beside it; paraphrase: a head that knows no first and "
        "second; STS: twice the loss weight",
        {
            "losses": (f"sst={_PARTS}:neighbours",),
            "heads": ("linear", _UNORDERED, "sts=cosine"),
            "loss_weights": ("1", "sts=16"),
        },
    ),
    "smart-3-implied-correlation": Trial(
        "SST: three times the weight of SMART; paraphrase: with pairs whose label follows from others; STS: a weight "
        "of 2, with the correlation within a step beside the squared error",
        {
            "smart": ("sst=3",),
            "losses": ("auto", f"sts=auto+{_PARTS}:correlation"),
            "loss_weights": ("1", "sts=2"),
        },
        implied=True,
    ),
    "smart-pairs-32": Trial(
        "paraphrase: SMART on it as well, in which two passes with dropouts of their own have to agree, as in R-Drop, "
        "under noise; STS: four times the loss weight",
        {"smart": ("sst=1", "paraphrase=1"), "loss_weights": ("1", "sts=32")},
    ),
    "hidden-product-metric": Trial(
        "SST: a head with two hidden layers; paraphrase: the product of the two outputs as a further feature; STS: the "
        "cosine of a linear map that begins as the identity, which the stages of the heads train, too",
        {
            "heads": ("sst=hidden", "paraphrase=hidden", f"sts={_PARTS}:metric_head"),
            "pair_features": "product",
        },
    ),
    "pals": Trial(
        "all tasks: projected attention layers of 96, a task's own part of each layer; no stage of the heads alone, "
        "which such layers take no part in",
        {"pals": 96, "stages": ("all:2",), "epochs": 2},
    ),
    "weight-16": Trial("STS: twice the loss weight", {"loss_weights": ("1", "sts=16")}),
    "sts-twice-16": Trial("STS: twice the loss weight, and twice as many of its pairs in each batch", _BEST),
    "sts-twice-16-none": Trial("the same without surgery", _BEST | {"surgery": "none"}),
    # What the parts of the recipe are worth that were in it before the trials.
    "without-smart": Trial("sts-twice-16 without SMART", _BEST | {"smart": ("0",)}),
    "without-heads-first": Trial(
        "sts-twice-16 without the stage of the heads alone", _BEST | {"stages": ("all:2",), "epochs": 2}
    ),
    "without-single-sentences": Trial(
        "sts-twice-16 with paraphrases as one sequence", _BEST | {"pair_encoding": ("separate", "paraphrase=joint")}
    ),
    "without-layer-decay": Trial("sts-twice-16 with one rate for all layers", _BEST | {"layer_decay": 1.0}),
}


def write_data(directory: Path, out: Path) -> None:
    """Write a folder in the course layout into `out`: the files of `directory`, and pairs whose label follows from
    the others behind the training set of paraphrases."""
    make_folder(out)
    for task in _TASKS:
        for split in ("train", "dev"):
            name = f"{task.stem}-{split}.csv"
            shutil.copy(directory / name, out / name)
    (paraphrase,) = (task for task in _TASKS if task.name == "paraphrase")
    train, dev = (read_split(paraphrase, directory, split, skip_bad_rows=True) for split in ("train", "dev"))
    labelled = [(example.first, example.second, int(example.label)) for example in train.examples]
    asked = [(example.first, example.second) for example in dev.examples]
    added = implied_pairs(labelled, asked, most=_MOST_IMPLIED, seed=1)
    with (out / f"{paraphrase.stem}-train.csv").open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        for number, (first, second, label) in enumerate(added):
            writer.writerow([len(labelled) + number, f"implied-{number}", first, second, f"{label}.0"])
    print(f"implied    {len(added)} pairs of questions follow from {len(labelled)}", flush=True)


def result_path(folder: Path, name: str, seed: int) -> Path:
    """The file of a trial's result."""
    return folder / f"{name}{'' if seed == 1 else f'-seed-{seed}'}.json"


def try_one(name: str, seed: int, data: Path, folder: Path, runs: Path) -> None:
    """Run a trial with a seed and keep its result, unless it is there; InputError where one of other settings is."""
    trial, path = TRIALS[name], result_path(folder, name, seed)
    settings = {**_JUDGED, **trial.settings, "seed": seed}
    files = [data / f"{task.stem}-{split}.csv" for task in _TASKS for split in ("train", "dev")]
    asked = {"implied": trial.implied, "settings": json.loads(json.dumps(settings)), "data": digest_of(files)}
    if path.exists():
        kept = read_json_object(path, "the result of a trial")
        for part, value in asked.items():
            if kept[part] != value:
                raise InputError(f"{path}: the trial had other {part}; give another --out, or remove the file")
        print(f"kept       {name}, seed {seed}", flush=True)
        return
    out = runs / f"{name}-{seed}"
    shutil.rmtree(out, ignore_errors=True)  # what a run that was broken off has left
    if trial.implied:
        write_data(data, runs / "implied")
    given = ["--data", str(runs / "implied" if trial.implied else data), "--skip-bad-rows"]
    summary = run.main(["--recipe", str(RECIPE), *flags_of(settings), *given, "--out", str(out)])
    found = {"trial": name, "what": trial.what, **asked}
    found |= {key: summary[key] for key in _KEPT}
    found |= {"all_dev": evaluate.main([str(out), "--skip-bad-rows"]), "surgery": summary["surgery"][WHOLE_MODEL]}
    found["evaluations"] = _evaluations(out / METRICS_FILE)
    write_text(path, json.dumps(found, indent=1) + "\n")
    shutil.rmtree(out)


def _evaluations(path: Path) -> list[dict[str, Any]]:
    """Step and dev metrics of each evaluation of a run."""
    entries, _ = read_lines(path.read_bytes())
    return [{"step": entry["step"], "dev": entry["dev"]} for entry in entries if entry["event"] == "evaluation"]


def kept_results(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder, in the order of the trials and seeds; InputError where one is damaged."""
    found = [read_json_object(path, "the result of a trial") for path in sorted(folder.glob("*.json"))]
    order = {name: place for place, name in enumerate(TRIALS)}
    return sorted(found, key=lambda one: (order.get(one["trial"], len(order)), one["settings"]["seed"]))


def write_page(folder: Path) -> None:
    """Write trials.md from the results in a folder; InputError where there are none."""
    found = kept_results(folder)
    if not found:
        raise InputError(f"{folder}: no result of a trial")
    write_text(folder / "trials.md", trials_page(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(prog="python -m bench.best_trials", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a directory in the course layout")
    parser.add_argument(
        "--trials", default=",".join(TRIALS), help=f"which, or '' for the page alone (default {','.join(TRIALS)})"
    )
    parser.add_argument("--seeds", default="1", help="of each (default 1)")
    parser.add_argument("--out", default="docs/best/trials", help="folder of the results (default docs/best/trials)")
    parser.add_argument("--runs", default="runs/trials", help="folder for the runs (default runs/trials)")
    given = parser.parse(arguments)
    names, seeds = [name for name in given.trials.split(",") if name], parse_seeds(given.seeds, fewest=1)
    for name in names:
        if name not in TRIALS:
            raise InputError(f"--trials {name}: {did_you_mean(name, list(TRIALS))}")
    os.environ["CONCORD_OWN"] = _PARTS  # what a trial's own folder names, its evaluation may import
    out, runs = Path(given.out), Path(given.runs)
    make_folder(runs)
    with alone(runs):  # whose parts are removed
        for name in names:
            for seed in seeds:
                try_one(name, seed, Path(given.data), out, runs)
                write_page(out)
    write_page(out)


if __name__ == "__main__":
    sys.exit(run_command(main))
