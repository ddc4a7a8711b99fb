"""Predictions and metrics of a model on whole data sets."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from concord.bert.batch import PackedBatch, PooledBatch
from concord.bert.errors import InputError
from concord.bert.multitask import MultitaskModel
from concord.kernels.layout.rows import TaskRows
from concord.train.data.batches import LabelledBatch, gather
from concord.train.data.sampler import MicroBatch
from concord.train.data.tasks import Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.objectives.answers import (
    LINKS,
    answer_scores,
    binary_scores,
    label_scores,
    task_errors,
    task_predictions,
)
from concord.train.objectives.metrics import main_metric, metric_names, task_metrics
from concord.train.objectives.thresholds import best_threshold
from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT, Reporter

GatherKept = Callable[[MicroBatch], LabelledBatch]
_TOKENS_A_BATCH = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True)
class Answers:
    """What a model answers to the examples of a set, in the set's order.

    Attributes:
        predictions: float64 [examples].
        errors: float64 [examples], how wrong each is, in [0, 1].
        scores: float64 [examples], what speaks for each (see `train.objectives.answers.answer_scores`); [0] where that
            was not asked for.
    """

    predictions: np.ndarray
    errors: np.ndarray
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class ScoredAnswers:
    """What a model answers to the examples of a set, in the set's order, and how sure it is.

    Attributes:
        predictions: float64 [examples].
        scores: float32 [examples, labels], see `label_scores`.
    """

    predictions: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, examples: int, labels: int) -> "ScoredAnswers":
        """Room for so many answers."""
        return cls(np.zeros(examples), np.zeros((examples, labels), dtype=np.float32))


def predict(
    model: MultitaskModel,
    split: TokenizedSplit,
    device: torch.device,
    reporter: Reporter = SILENT,
    ranks: Ranks | None = None,
) -> np.ndarray:
    """What the model answers for each example of a task's set, float64 [examples], in the set's order.

    Batches hold examples of similar length and a fixed number of tokens. reporter: is told of each that is read; ranks:
    divide the batches, and all have all answers.
    """
    return _answer(model, split, device, judged=False, reporter=reporter, ranks=ranks).predictions


@torch.no_grad()
def _answer(
    model: MultitaskModel,
    split: TokenizedSplit,
    device: torch.device,
    *,
    judged: bool,
    choose_threshold: bool = False,
    gather_kept: GatherKept | None = None,
    reporter: Reporter = SILENT,
    ranks: Ranks | None = None,
) -> Answers:
    task, head = split.task, model.heads[split.task.name]
    judged_examples = len(split) if judged else 0
    predictions, errors, scores = np.zeros(len(split)), np.zeros(judged_examples), np.zeros(judged_examples)
    for examples, batch in _batches(model, split, np.arange(len(split)), device, reporter, gather_kept, ranks):
        logits = model(batch)[task.name].logits
        if head.threshold is None:
            predictions[examples] = task_predictions(task, logits, head.link)
        else:
            predictions[examples] = binary_scores(logits, head.link)
        if judged:
            errors[examples] = task_errors(task, logits, split.labels[examples], head.link)
            scores[examples] = answer_scores(task, logits, head.link)
    if ranks is not None:
        # Each number is of one rank, and zero on all others.
        predictions, errors, scores = map(ranks.add_up_on_host, (predictions, errors, scores))
    if head.threshold is not None:
        if choose_threshold:
            head.threshold.fill_(best_threshold(predictions, split.labels, main_metric(task)))
        predictions = (predictions > head.threshold.item()).astype(np.float64)
    return Answers(predictions, errors, scores)


@torch.no_grad()
def answer_tasks(
    model: MultitaskModel,
    tasks: Sequence[Task],
    split: TokenizedSplit,
    device: torch.device,
    reporter: Reporter = SILENT,
) -> dict[str, ScoredAnswers]:
    """What the model answers for each of several tasks to the examples of one set, which the encoder reads once.

    tasks: of the model, which read their examples alike: one, or any that take one sequence an example. `split` is of
    the first of them. The predictions are those of `predict`. ValueError for several tasks of a model with projected
    attention, whose encoder reads for one task at a time. InputError where an answer is not finite.
    """
    if model.pals is not None and len(tasks) > 1:
        raise ValueError("projected attention reads for one task at a time")
    found: dict[str, ScoredAnswers] = {}
    for examples, batch in _batches(model, split, np.arange(len(split)), device, reporter):
        pooled = model.pool(batch)
        for task in tasks:
            head = model.heads[task.name]
            rows = TaskRows.of_counts([len(pooled) * (name == task.name) for name in model.tasks], device)
            logits = model.read(pooled, rows)[task.name].logits
            scores = label_scores(task, logits, head.link or LINKS[task.kind][0])
            if not np.isfinite(scores).all():
                raise InputError(f"task {task.name}: an answer is not finite; expected another --amp than fp16")
            own = found.setdefault(task.name, ScoredAnswers.empty(len(split), scores.shape[1]))
            own.scores[examples] = scores
            if head.threshold is None:
                own.predictions[examples] = task_predictions(task, logits, head.link)
            else:
                own.predictions[examples] = binary_scores(logits, head.link) > np.float64(head.threshold.item())
    return found


@torch.no_grad()
def encode(
    model: MultitaskModel,
    split: TokenizedSplit,
    examples: np.ndarray,
    device: torch.device,
    reporter: Reporter = SILENT,
    ranks: Ranks | None = None,
) -> Tensor:
    """The pooled output of each sequence of some examples of a task's set, [sequences, hidden], without dropout.

    examples: int64 indices, rising; the sequences are in their order; reporter: is told of each batch that is read;
    ranks: divide the batches, and all have all outputs.
    """
    like = model.encoder.pooler.weight
    pooled = like.new_zeros(len(examples) * split.sequences_per_example, len(like))
    for own, packed in _batches(model, split, examples, device, reporter, ranks=ranks):
        sequences = split.sequences_of(np.searchsorted(examples, own))
        pooled[torch.from_numpy(sequences).to(device)] = model.pool(packed)
    return pooled if ranks is None else ranks.add_up(pooled)


def _batches(
    model: MultitaskModel,
    split: TokenizedSplit,
    examples: np.ndarray,
    device: torch.device,
    reporter: Reporter = SILENT,
    gather_kept: GatherKept | None = None,
    ranks: Ranks | None = None,
) -> Iterator[tuple[np.ndarray, PackedBatch | PooledBatch]]:
    """Examples of a set in batches of similar length: their indices, and what the model reads; gather_kept, ranks: see
    `evaluate`."""
    lengths = np.diff(split.cu_seqlens[:: split.sequences_per_example])
    order = examples[np.argsort(lengths[examples], kind="stable")]
    empty = {name: np.zeros(0, dtype=np.int64) for name in model.tasks}
    splits = dict.fromkeys(model.tasks, split)
    for number, own in enumerate(np.split(order, _cuts(lengths[order], _TOKENS_A_BATCH[device.type]))):
        if len(own) and ranks is not None and number % ranks.size != ranks.rank:
            reporter.read(len(own))
        elif len(own):
            micro_batch = {**empty, split.task.name: own}
            yield own, (gather_kept(micro_batch) if gather_kept else gather(splits, micro_batch, device)).packed
            reporter.read(len(own))


def evaluate(
    model: MultitaskModel,
    splits: Mapping[str, TokenizedSplit],
    device: torch.device,
    *,
    choose_thresholds: bool = False,
    gather_kept: GatherKept | None = None,
    reporter: Reporter = SILENT,
    ranks: Ranks | None = None,
) -> tuple[dict[str, dict[str, float | None]], dict[str, Answers]]:
    """Each task's metrics on its labelled set, and the answers that they judge.

    A metric that is undefined on the set is None. Where a logit is not finite, all metrics of the task are NaN, since
    its predictions mean nothing.
    choose_thresholds: first give each head that has a threshold the one that its task's metric is best with on
    this set.
    gather_kept: a batch of these sets' examples with outputs of the encoder that have been computed before; None to
    run it. reporter: is told of each batch that is read. ranks: divide the batches, which hold about as many tokens
    each, and all have all answers.
    """
    answers = {
        name: _answer(
            model,
            split,
            device,
            judged=True,
            choose_threshold=choose_thresholds,
            gather_kept=gather_kept,
            reporter=reporter,
            ranks=ranks,
        )
        for name, split in splits.items()
    }
    metrics = {}
    for name, own in answers.items():
        task, labels = splits[name].task, splits[name].labels
        if np.isfinite(own.errors).all():
            metrics[name] = task_metrics(task, own.predictions, labels, own.scores)
        else:
            metrics[name] = dict.fromkeys(metric_names(task), math.nan)
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
