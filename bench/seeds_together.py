"""What runs that differ in their seed know together: python -m bench.seeds_together RUN RUN ... [--out DIR]

Judges the best model of each run, the mean of their answers, and the model whose weights are the mean of theirs, on all
dev examples. The second tells what one model could be taught by all of them, the third what an average of weights gives
for nothing. Writes together.json and, from it alone, together.md.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from bench.trial_pages import score_text
from concord.bert.errors import InputError
from concord.bert.files import make_folder, write_text
from concord.bert.multitask import MultitaskModel
from concord.train.command import run_command
from concord.train.data.datasets import load_datasets
from concord.train.data.tokenized import TokenizedSplit
from concord.train.flags import OneLineParser
from concord.train.objectives.metrics import check_metrics, task_metrics
from concord.train.outputs.names import CONFIG_FILE
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.provenance import commit, versions
from concord.train.outputs.saved_run import SavedRun, load_run
from concord.train.papers.tables import main_score
from concord.train.reporter import Reporter
from concord.train.settings.files import read_config
from concord.train.steps.evaluation import ScoredAnswers, answer_tasks

ANSWERS, WEIGHTS = "mean of the answers", "mean of the weights"
_OF_A_PLACE = ("seed", "data")  # settings that the runs may differ in, and that the results do not tell
Splits = Mapping[str, TokenizedSplit]
Answers = Mapping[str, ScoredAnswers]


def together(runs: Sequence[Path], reporter: Reporter) -> dict[str, Any]:
    """The dev metrics of each run's best model, of their mean answers and of their mean weights, and what made them.

    InputError where there are fewer than two runs, they differ in more than the seed or not in it, or as `load_run`
    and `load_datasets` raise it.
    """
    settings, seeds = _settings_of(runs)
    models = [load_run(run, "auto", reporter) for run in runs]
    first = models[0]
    check_metrics(first.tasks)
    data = replace(first.config.data, dev_examples=0)
    splits = load_datasets(data, first.tasks, first.tokenizer, None, reporter, splits=("dev",)).dev
    answers = [_answers(saved, splits) for saved in models]
    rows = {f"seed {seed}": _metrics(own, splits) for seed, own in zip(seeds, answers, strict=True)}
    thresholds = [saved.model.thresholds() for saved in models]
    mean_thresholds = {name: mean(one[name] for one in thresholds) for name in thresholds[0]}
    rows[ANSWERS] = _metrics(mean_answers(answers, splits, mean_thresholds), splits)
    average_weights([saved.model for saved in models])
    rows[WEIGHTS] = _metrics(_answers(first, splits), splits)
    made = {"device": first.precision.device_name, "precision": first.precision.name, "kernels": first.kernels}
    return {"dev": rows, "settings": settings, **made, "versions": versions(), "commit": commit()}


def _settings_of(runs: Sequence[Path]) -> tuple[dict[str, Any], list[int]]:
    """What the runs have in common, and the seed of each."""
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run, expected two or more")
    found = [asdict(read_config(run / CONFIG_FILE)) for run in runs]
    seeds = [one["seed"] for one in found]
    common = [{name: value for name, value in one.items() if name not in _OF_A_PLACE} for one in found]
    for run, own, seed in zip(runs, common, seeds, strict=True):
        other = [name for name, value in own.items() if value != common[0][name]]
        if other:
            raise InputError(f"{run}: its {other[0]} is not that of {runs[0]}, expected runs that differ in the seed")
        if seeds.count(seed) > 1:
            raise InputError(f"{run}: the seed {seed} is that of another run as well, expected one of its own")
    return common[0], seeds


def _answers(saved: SavedRun, splits: Splits) -> dict[str, ScoredAnswers]:
    device = saved.precision.device
    return {name: answer_tasks(saved.model, [split.task], split, device)[name] for name, split in splits.items()}


def mean_answers(answers: Sequence[Answers], splits: Splits, thresholds: Mapping[str, float]) -> Answers:
    """The mean of several models' answers: of a classification the class of the largest mean score, of a binary task 1
    where the mean score is above its threshold (0.5 where it has none), of a regression the mean itself."""
    found = {}
    for name, split in splits.items():
        scores = np.mean([own[name].scores for own in answers], axis=0, dtype=np.float64)
        if split.task.kind == "regression":
            predictions = scores[:, 0]
        elif split.task.kind == "binary":
            predictions = (scores[:, 1] > thresholds.get(name, 0.5)).astype(np.float64)
        elif split.task.kind == "classification":
            predictions = scores.argmax(1).astype(np.float64)
        else:
            raise ValueError(f"a task of kind {split.task.kind}")
        found[name] = ScoredAnswers(predictions, scores.astype(np.float32))
    return found


@torch.no_grad()
def average_weights(models: Sequence[MultitaskModel]) -> None:
    """Give the first of some models the mean of all their weights and thresholds, taken in fp64."""
    values = [_values(model) for model in models]
    for name, value in values[0].items():
        value.copy_(torch.stack([own[name].double() for own in values]).mean(0))
    models[0].shared.refresh_compute()


def _values(model: MultitaskModel) -> dict[str, torch.Tensor]:
    return model.shared.values() | model.private.values() | dict(model.heads.named_buffers())


def _metrics(answers: Answers, splits: Splits) -> dict[str, dict[str, float | None]]:
    return {
        name: task_metrics(split.task, answers[name].predictions, split.labels, answers[name].scores[:, -1])
        for name, split in splits.items()
    }


def page_of(found: Mapping[str, Any]) -> str:
    """The page as Markdown, from what `together` has found."""
    tasks, at = list(found["dev"][WEIGHTS]), found["commit"] or "unknown"
    lines = ["# What the seeds know together", ""]
    lines += [
        f"`python -m bench.seeds_together RUN RUN ...`, {found['device']}, {found['precision']}, torch "
        f"{found['versions']['torch']}, at commit {at[:7]}{at[40:]}: best models of runs "
        "that differ in their seed, on all dev examples. The mean of the answers asks each model, and takes the mean "
        "of the shares that each gives a label, or of scores; the mean of the weights is one model.",
        "",
    ]
    lines += [f"| | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    for name, metrics in found["dev"].items():
        lines.append(f"| {name} | " + " | ".join(score_text(main_score(metrics[task])) for task in tasks) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(prog="python -m bench.seeds_together", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs that differ in their seed")
    parser.add_argument("--out", default="docs/best", help="folder of the results (default docs/best)")
    given = parser.parse(arguments)
    out = Path(given.out)
    make_folder(out)
    found = together([Path(run) for run in given.runs], ConsoleReporter())
    write_text(out / "together.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "together.md", page_of(found))
    print(page_of(found))


if __name__ == "__main__":
    sys.exit(run_command(main))
