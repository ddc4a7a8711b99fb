"""A trained model in a program: texts in, labels, scores and embeddings out."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from concord.bert.errors import InputError, did_you_mean, shown
from concord.kernels.threads import current_choices, own_choices
from concord.train.data.datasets import tokenize
from concord.train.data.delimited import LONGEST_TEXT
from concord.train.data.tasks import Example, Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.objectives.answers import label_names
from concord.train.outputs.saved_run import SavedRun
from concord.train.reporter import Reporter
from concord.train.steps.evaluation import ScoredAnswers, answer_tasks, encode

# What is tokenised at a time, whichever comes first: some hundred MB at most.
_EXAMPLES, _CHARACTERS = 1 << 16, 1 << 26
# One call computes at a time: each takes all of the cores, and room for a whole batch.
_COMPUTING = threading.Lock()

Pair = tuple[str, str]


class Predictions(NamedTuple):
    """What a task answers.

    labels: of each example: a list of the labels' names, or of their numbers where the data have no names; of a
        regression its scores, float64 [examples].
    scores: float32 [examples, labels], in the order of `LoadedRun.labels`; each row adds up to 1. Of a regression the
        answers themselves, float32 [examples, 1].
    """

    labels: "list[str] | list[int] | np.ndarray"
    scores: np.ndarray


class LoadedRun:
    """A trained model, as `concord.load` gives it. Any thread may call it; calls at the same time take turns.

    It computes with the kernels and products that were chosen where it was made, whatever the process has chosen since.

    Texts may be a list or any iterable, of any length: they are read in packed batches of similar length, so many
    tokens at a time, and an iterable that has no length is never held whole. They are cut at the run's maximal length,
    of which a warning (`UserWarning`) tells. An empty text is answered as an empty text. On a terminal a bar shows how
    far a call has come that takes a while.

    Args:
        saved: the model.
        reporter: is told how far it has read.

    Attributes:
        tasks: the run's, in its order; none of a model that has been trained on none.
    """

    def __init__(self, saved: SavedRun, tasks: tuple[Task, ...], reporter: Reporter) -> None:
        self._saved, self._reporter, self.tasks = saved, reporter, tasks
        self._choices = current_choices()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._saved.precision.device

    @property
    def hidden_size(self) -> int:
        """The columns of an embedding."""
        return self._saved.model.encoder.config.hidden_size

    @property
    def max_length(self) -> int:
        """Wordpieces at which a sequence is cut, special tokens included."""
        return self._saved.config.data.max_length

    def labels(self, task: str) -> tuple[str, ...] | tuple[int, ...]:
        """The labels of a task, in the order of their scores; () of a regression. InputError for an unknown task."""
        return label_names(self._task(task))

    def predict(
        self, task: str, texts: Iterable[str] | Iterable[Pair], *, return_scores: bool = False
    ) -> "list[str] | list[int] | np.ndarray | Predictions":
        """What the task answers to each of the texts, or of the pairs of texts, in their order.

        Returns labels as `Predictions.labels` has them, or with `return_scores` both. The answers are those that
        `train.predict` writes. InputError for an unknown task, for what is no text or no pair of two texts as the task
        takes them, and for a text of more than a million characters.
        """
        own = self._task(task)
        return _told(own, self._answers([own], texts)[task], return_scores)

    def predict_all(
        self, texts: Iterable[str], *, return_scores: bool = False
    ) -> "dict[str, list[str] | list[int] | np.ndarray | Predictions]":
        """What every task of single texts answers: task -> what `predict` returns of it. The encoder reads the texts
        once; with projected attention, which is each task's own, once a task. InputError where no task takes single
        texts, and as for `predict`."""
        tasks = [task for task in self.tasks if not task.pair]
        if not tasks:
            raise InputError("predict_all: the run has no task of single texts, expected predict(task, pairs)")
        if self._saved.model.pals is None:
            found = self._answers(tasks, texts)
        else:
            texts = texts if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable) else list(texts)
            found = {name: one for task in tasks for name, one in self._answers([task], texts).items()}
        return {task.name: _told(task, found[task.name], return_scores) for task in tasks}

    def encode(self, texts: Iterable[str], *, normalize: bool = True, task: str | None = None) -> np.ndarray:
        """The embedding of each text as the run pools its sequences, float32 [texts, hidden]: what its heads read.

        normalize: whether each has the length 1. task: for whom the encoder reads, where the run has projected
        attention, which is each task's own; it makes no difference otherwise. InputError where that is missing or
        unknown, and as for `predict`.
        """
        if task is not None:
            own = self._task(task)
        elif self._saved.model.pals is not None:
            names = ", ".join(one.name for one in self.tasks)
            raise InputError(f"encode: projected attention reads for one task, expected task= one of {names}")
        else:
            own = self._saved.tasks[0]
        found: list[np.ndarray] = []

        def use(split: TokenizedSplit) -> None:
            pooled = encode(self._saved.model, split, np.arange(len(split)), self.device, self._reporter).float()
            found.append((functional.normalize(pooled, dim=1) if normalize else pooled).cpu().numpy())

        self._read(_single(own), texts, use)
        return np.concatenate(found) if found else np.zeros((0, self.hidden_size), dtype=np.float32)

    def _task(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        if not self.tasks:
            raise InputError(f"task {shown(name)}: the model was trained on no task, so that it can only encode")
        raise InputError(f"task {shown(name)}: {did_you_mean(str(name), [task.name for task in self.tasks])}")

    def _answers(self, tasks: list[Task], texts: Iterable[str] | Iterable[Pair]) -> dict[str, ScoredAnswers]:
        parts = {task.name: [ScoredAnswers.empty(0, max(1, len(label_names(task))))] for task in tasks}

        def use(split: TokenizedSplit) -> None:
            found = answer_tasks(self._saved.model, tasks, split, self.device, self._reporter)
            for name, own in found.items():
                parts[name].append(own)

        self._read(tasks[0], texts, use)
        return {
            name: ScoredAnswers(
                np.concatenate([one.predictions for one in own]), np.concatenate([one.scores for one in own])
            )
            for name, own in parts.items()
        }

    def _read(self, task: Task, texts: Iterable[str] | Iterable[Pair], use: Callable[[TokenizedSplit], None]) -> None:
        """Tokenise the examples of a call, so many at a time, and `use` each part, while no other call computes."""
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            raise InputError(f"texts is {shown(texts)}, expected a list of texts")
        truncated = 0
        with self._reporter.reading(task.name, len(texts)) if isinstance(texts, Sized) else nullcontext():
            for examples in _parts(_examples(task, texts)):
                with _COMPUTING, own_choices(self._choices):
                    split = tokenize(self._saved.config.data, task, examples, self._saved.tokenizer, None)
                    truncated += split.truncated
                    use(split)
        if truncated:
            self._reporter.warn(f"{truncated} texts were longer than {self.max_length} wordpieces and cut")


def answers_of(run: LoadedRun, tasks: list[Task], examples: list[Example]) -> dict[str, ScoredAnswers]:
    """What several tasks answer to rows that have been read: of one task, or of any that take single texts."""
    texts = [(one.first, one.second or "") if tasks[0].pair else one.first for one in examples]
    return run._answers(tasks, texts)


def _told(task: Task, answers: ScoredAnswers, scores: bool) -> "list[str] | list[int] | np.ndarray | Predictions":
    labels: list[str] | list[int] | np.ndarray = answers.predictions
    if task.kind != "regression":
        names = label_names(task)
        labels = [names[int(value)] for value in answers.predictions]
    return Predictions(labels, answers.scores) if scores else labels


def _single(task: Task) -> Task:
    """A task of the same name whose examples are single texts."""
    return replace(task, pair=False, text_columns=task.text_columns[:1])


def _examples(task: Task, texts: Iterable[str] | Iterable[Pair]) -> Iterator[Example]:
    for number, given in enumerate(texts):
        if not task.pair:
            yield Example(str(number), _text(given, f"text {number}"), None, None)
            continue
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise InputError(f"pair {number} is {shown(given)}, expected two texts, which task {task.name} compares")
        first, second = (_text(one, f"pair {number}") for one in given)
        yield Example(str(number), first, second, None)


def _text(given: object, place: str) -> str:
    """A text without spaces around it, as the data's are."""
    if not isinstance(given, str):
        raise InputError(f"{place} is {shown(given)}, expected a text")
    if len(given) > LONGEST_TEXT:
        raise InputError(f"{place} has {len(given)} characters, expected {LONGEST_TEXT} at most")
    return given.strip()


def _parts(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """The examples in lists of bounded size."""
    for first in examples:
        part, characters = [], 0
        for example in chain([first], examples):
            part.append(example)
            characters += len(example.first) + len(example.second or "")
            if len(part) == _EXAMPLES or characters >= _CHARACTERS:
                break
        yield part
