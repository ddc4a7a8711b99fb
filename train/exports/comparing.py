"""How far the answers of an ONNX graph are from those of the run, on the run's dev sets."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from concord.bert.errors import InputError
from concord.train.data.datasets import load_datasets, with_data
from concord.train.data.tasks import Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.exports.encoder_nodes import IDS, MASK, SEGMENTS, input_names
from concord.train.exports.request import Request
from concord.train.objectives.answers import label_names
from concord.train.steps.evaluation import ScoredAnswers, answer_tasks

_EXAMPLES = 32  # in a batch


@dataclass(frozen=True)
class Difference:
    """Of one task.

    Attributes:
        task: its name.
        examples: how many were compared.
        score: the largest difference of a score, as a share of its range.
        other_labels: how many examples have another label.
    """

    task: str
    examples: int
    score: float
    other_labels: int


def compare(request: Request, path: Path) -> list[Difference]:
    """The differences of each task that the graph at `path` has, on its dev set.

    InputError where the dev sets cannot be read, and where an answer is not finite.
    """
    saved = request.saved
    config = with_data(saved.config.data, request.data, saved.tasks) if request.data else saved.config.data
    config = replace(config, dev_examples=request.examples)
    sets = load_datasets(config, request.tasks, saved.tokenizer, None, request.reporter, splits=("dev",)).dev
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = input_names(saved.model)
    found = []
    with request.reporter.reading("dev sets", 2 * sum(map(len, sets.values()))):
        for task in request.tasks:
            split = sets[task.name]
            expected = answer_tasks(saved.model, [task], split, saved.precision.device, request.reporter)[task.name]
            answers = _answers(session, names, split, request)
            found.append(_difference(task, expected, answers))
    return found


def _answers(
    session: onnxruntime.InferenceSession, names: list[str], split: TokenizedSplit, request: Request
) -> ScoredAnswers:
    task, sorts = split.task, np.argsort(np.diff(split.cu_seqlens[:: split.sequences_per_example]), kind="stable")
    answers = ScoredAnswers.empty(len(split), max(1, len(label_names(task))))
    wanted = [f"{task.name}.scores"] + ([f"{task.name}.label"] if task.kind != "regression" else [])
    for start in range(0, len(split), _EXAMPLES):
        own = sorts[start : start + _EXAMPLES]
        rows = padded(split, split.sequences_of(own))
        scores, *labels = session.run(wanted, {name: rows[name] for name in names})
        answers.scores[own] = scores
        answers.predictions[own] = labels[0] if labels else scores[:, 0]
        request.reporter.read(len(own))
    if not np.isfinite(answers.scores).all():
        raise InputError(f"task {task.name}: an answer of the graph is not finite; nothing was written")
    return answers


def padded(split: TokenizedSplit, sequences: np.ndarray) -> dict[str, np.ndarray]:
    """Sequences of a split as Hugging Face's tokenizers pad them: int64 [sequences, longest] each, 0 where there is
    padding, which the mask tells."""
    lengths = np.diff(split.cu_seqlens)[sequences]
    shape = (len(sequences), int(lengths.max()))
    rows = {name: np.zeros(shape, dtype=np.int64) for name in (IDS, MASK, SEGMENTS)}
    for row, (number, length) in enumerate(zip(sequences, lengths, strict=True)):
        own = slice(split.cu_seqlens[number], split.cu_seqlens[number + 1])
        rows[IDS][row, :length], rows[SEGMENTS][row, :length] = split.ids[own], split.segments[own]
        rows[MASK][row, :length] = 1
    return rows


def _difference(task: Task, expected: ScoredAnswers, found: ScoredAnswers) -> Difference:
    span = float(task.high) - float(task.low) if task.kind == "regression" else 1.0
    largest = float(np.abs(found.scores - expected.scores).max(initial=0.0)) / span
    other = 0 if task.kind == "regression" else int((found.predictions != expected.predictions).sum())
    return Difference(task.name, len(expected.predictions), largest, other)
