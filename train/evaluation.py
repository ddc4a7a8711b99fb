"""Predictions and metrics of a model on whole data sets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bert.batch import PackedBatch
from bert.multitask import MultitaskModel
from train.batches import gather
from train.losses import task_errors, task_predictions
from train.metrics import task_metrics
from train.tokenized import TokenizedSplit

_TOKENS_A_BATCH = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True)
class Answers:
    """predictions: float64 [examples], in the set's order; errors: float64 [examples], how wrong each is, in [0, 1]."""

    predictions: np.ndarray
    errors: np.ndarray


def predict(model: MultitaskModel, split: TokenizedSplit, device: torch.device) -> np.ndarray:
    """What the model answers for each example of a task's set, float64 [examples], in the set's order.

    Batches hold examples of similar length and a fixed number of tokens.
    """
    return _answer(model, split, device, judged=False).predictions


@torch.no_grad()
def _answer(model: MultitaskModel, split: TokenizedSplit, device: torch.device, *, judged: bool) -> Answers:
    task, link = split.task, model.heads[split.task.name].link
    predictions, errors = np.zeros(len(split)), np.zeros(len(split) if judged else 0)
    for examples, packed in _batches(model, split, device):
        logits = model(packed)[task.name].logits
        predictions[examples] = task_predictions(task, logits, link)
        if judged:
            errors[examples] = task_errors(task, logits, split.labels[examples], link)
    return Answers(predictions, errors)


@torch.no_grad()
def encode(model: MultitaskModel, split: TokenizedSplit, device: torch.device) -> Tensor:
    """The pooled output of every sequence of a task's set, [sequences, hidden], without dropout."""
    pooled = None
    for examples, packed in _batches(model, split, device):
        found = model.pool(packed)
        if pooled is None:
            pooled = found.new_empty(len(split) * split.sequences_per_example, found.shape[1])
        pooled[torch.from_numpy(split.sequences_of(examples)).to(device)] = found
    if pooled is None:
        raise ValueError("a set without examples has no pooled outputs")
    return pooled


def _batches(
    model: MultitaskModel, split: TokenizedSplit, device: torch.device
) -> Iterator[tuple[np.ndarray, PackedBatch]]:
    """The set in batches of examples of similar length: their numbers, and what the model reads."""
    lengths = np.diff(split.cu_seqlens[:: split.sequences_per_example])
    order = np.argsort(lengths, kind="stable")
    empty = {name: np.zeros(0, dtype=np.int64) for name in model.tasks}
    splits = dict.fromkeys(model.tasks, split)
    for examples in np.split(order, _cuts(lengths[order], _TOKENS_A_BATCH[device.type])):
        if len(examples):
            yield examples, gather(splits, {**empty, split.task.name: examples}, device).packed


def evaluate(
    model: MultitaskModel, splits: Mapping[str, TokenizedSplit], device: torch.device
) -> tuple[dict[str, dict[str, float]], dict[str, Answers]]:
    """Each task's metrics on its labelled set, and the answers that they judge."""
    answers = {name: _answer(model, split, device, judged=True) for name, split in splits.items()}
    metrics = {
        name: task_metrics(split.task, answers[name].predictions, split.labels) for name, split in splits.items()
    }
    return metrics, answers


def _cuts(lengths: np.ndarray, tokens: int) -> list[int]:
    """Where to cut sorted examples so that no part exceeds `tokens`, unless one example does."""
    cuts, used = [], 0
    for index, length in enumerate(lengths):
        if used and used + length > tokens:
            cuts.append(index)
            used = 0
        used += int(length)
    return cuts
