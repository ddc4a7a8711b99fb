"""Folders of runs that nobody ran: written by the project's own writers, with numbers of the test's choice."""

import json
import zlib

import numpy as np

from concord.train.data.tasks import Example, select_tasks, write_tasks
from concord.train.data.tokenized import TokenizedSplit
from concord.train.outputs.dev_answers import write_answers
from concord.train.outputs.log import read_lines
from concord.train.outputs.mistakes import write_mistakes
from concord.train.outputs.strict_json import json_text
from concord.train.settings.config import RunConfig
from concord.train.settings.files import write_config
from concord.train.steps.evaluation import Answers

TASKS = select_tasks(["sst", "paraphrase", "sts"], None)
PAIRS = ("sst-paraphrase", "sst-sts", "paraphrase-sts")
BLOCKS = ("embeddings", "layers.0", "model")


def step(number, loss=1.0, cosine=-0.5, **more):
    """The entry of a logged step, before which every step conflicted."""
    sums = {pair: [number, cosine * number, number] for pair in PAIRS}
    return {
        "event": "step",
        "step": number,
        "epoch": 0,
        "losses": {task.name: loss for task in TASKS},
        "gradient_norms": {task.name: 0.5 for task in TASKS},
        "merged_norm": 1.5,
        "cosines": dict.fromkeys(PAIRS, cosine),
        "applied": True,
        "applied_steps": number,
        "skipped_in_row": [0, 0, 0],
        "conflicts": dict.fromkeys(BLOCKS, sums),
        "loss_scale": 1.0,
        "learning_rate": 1e-4,
        "examples": 12,
        "tokens": 240,
        "trained_examples": 12 * number,
        "seconds": 0.25 * number,
        **more,
    }


def evaluation(number, accuracy=0.5):
    dev = {"sst": {"accuracy": accuracy}, "paraphrase": {"accuracy": 0.75, "f1": 0.5}}
    return {"event": "evaluation", "step": number, "epoch": 0, "dev": dev | {"sts": {"pearson": 0.25, "spearman": 0.5}}}


def log_line(entry):
    text = json_text(entry)
    return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}\n'


def summary(entries, **more):
    """What summary.json tells of a run that ended after its last entry."""
    share = {"meeting_steps": 4, "conflicting_steps": 1, "share": 0.25, "mean_cosine": 0.125}
    norms = {task.name: 0.5 for task in TASKS}
    return {
        "dev": evaluation(0)["dev"],
        "overall": 0.6,
        "mean": 0.5,
        "thresholds": {},
        "best_step": entries[-1]["step"],
        "steps": entries[-1]["step"],
        "skipped_steps": 0,
        "seconds": 12.0,
        "training_seconds": 10.0,
        "examples_per_second": 48.0,
        "tokens_per_second": 960.0,
        "device": "CPU (some processor)",
        "precision": "fp32",
        "kernels": "torch",
        "products": "",
        "epochs": [{"epoch": 0, "steps": 4, "seconds": 10.0, "conflicts": dict.fromkeys(PAIRS, 1)}],
        "damaged_log_lines": 0,
        "surgery": {
            block: {"pairs": dict.fromkeys(PAIRS, share), "gradient_norms": norms, "change": 0.375} for block in BLOCKS
        },
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "commit": "0123456789abcdef",
        "finished": "2026-01-02T03:04:05+00:00",
        **more,
    }


def answers_of(task, gold, predicted, scores=None, texts=None):
    """A dev set with these labels, a model's answers to it, and its examples, each of a text of its own unless they are
    told."""
    gold, predicted = np.array(gold, dtype=np.float32), np.array(predicted, dtype=np.float64)
    lengths = np.arange(len(gold)) + 3
    split = TokenizedSplit(
        task=task,
        example_ids=[f"{task.name}-{row}" for row in range(len(gold))],
        ids=np.zeros(lengths.sum(), dtype=np.int32),
        segments=np.zeros(lengths.sum(), dtype=np.uint8),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]),
        sequences_per_example=1,
        labels=gold,
        truncated=0,
        digest="",
    )
    errors = np.abs(gold - predicted) / (task.high - task.low)
    texts = texts or split.example_ids
    examples = [Example(name, text, None, None) for name, text in zip(split.example_ids, texts, strict=True)]
    return split, Answers(predicted, errors, np.full(len(gold), 0.75) if scores is None else np.array(scores)), examples


def write_run(directory, entries=(), answers=None, examples=None, *, text=None, summed_up=True, **settings):
    """A run that has logged `entries` (or the lines of `text`) and answered its dev sets: task -> see `answers_of`."""
    directory.mkdir(parents=True)
    write_config(RunConfig(**settings), directory / "config.json")
    write_tasks(directory / "tasks.json", TASKS)
    text = "".join(map(log_line, entries)) if text is None else text
    (directory / "metrics.jsonl").write_text(text)
    if summed_up:
        last = entries or read_lines(text.splitlines()[-1].encode())[0]
        (directory / "summary.json").write_text(json_text(summary(last)))
    for task in TASKS:
        if task.name in (answers or {}):
            write_answers(directory / f"{task.name}-dev-answers.csv", *answers[task.name])
        if task.name in (examples or {}):
            path = directory / f"{task.name}-dev-mistakes.csv"
            write_mistakes(path, task, examples[task.name], answers[task.name][1], 20)
    return directory


def write_seeds(directory, runs, *, threads=1):
    """A folder of several seeds: seed -> what `write_run` is given of its run; None for one that has not begun."""
    directory.mkdir(parents=True)
    write_config(RunConfig(), directory / "config.json")
    (directory / "seeds.json").write_text(json.dumps({"seeds": list(runs), "threads": threads}))
    for seed, settings in runs.items():
        if settings is not None:
            write_run(directory / f"seed-{seed}", seed=seed, **settings)
    return directory
