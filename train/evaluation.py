"""Predictions and metrics of a model on whole data sets."""

from collections.abc import Mapping

import numpy as np
import torch

from bert.multitask import MultitaskModel
from train.batches import gather
from train.losses import task_predictions
from train.metrics import task_metrics
from train.tokenized import TokenizedSplit

_TOKENS_A_BATCH = {"cpu": 4096, "cuda": 65536}


@torch.no_grad()
def predict(model: MultitaskModel, split: TokenizedSplit, device: torch.device) -> np.ndarray:
    """What the model answers for each example of a task's set, float64 [examples], in the set's order.

    Batches hold examples of similar length and a fixed number of tokens.
    """
    task, count = split.task, split.sequences_per_example
    lengths = np.diff(split.cu_seqlens[::count])
    order = np.argsort(lengths, kind="stable")
    batches = np.split(order, _cuts(lengths[order], _TOKENS_A_BATCH[device.type]))
    empty = {name: np.zeros(0, dtype=np.int64) for name in model.tasks}
    splits = dict.fromkeys(model.tasks, split)
    predictions = np.zeros(len(split))
    for batch in batches:
        if len(batch):
            logits = model(gather(splits, {**empty, task.name: batch}, device).packed)[task.name]
            predictions[batch] = task_predictions(task, logits)
    return predictions


def evaluate(
    model: MultitaskModel, splits: Mapping[str, TokenizedSplit], device: torch.device
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Each task's metrics on its labelled set, and the predictions that they judge."""
    predictions = {name: predict(model, split, device) for name, split in splits.items()}
    metrics = {name: task_metrics(split.task, predictions[name], split.labels) for name, split in splits.items()}
    return metrics, predictions


def _cuts(lengths: np.ndarray, tokens: int) -> list[int]:
    """Where to cut sorted examples so that no part exceeds `tokens`, unless one example does."""
    cuts, used = [], 0
    for index, length in enumerate(lengths):
        if used and used + length > tokens:
            cuts.append(index)
            used = 0
        used += int(length)
    return cuts
