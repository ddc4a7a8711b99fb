"""The demo data set: text that the project generates from grammars and word lists of its own, the same on every run."""

import random
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from concord.bert.errors import InputError, did_you_mean
from concord.train.data.demo_sets.grammar import SPLITS, shuffle
from concord.train.data.demo_sets.questions import question_pairs
from concord.train.data.demo_sets.sentiment import sentiment_sentences
from concord.train.data.demo_sets.similarity import similarity_pairs
from concord.train.data.tasks import Example

_GENERATORS: dict[str, Callable[..., dict[str, list[Any]]]] = {
    "sst": sentiment_sentences,
    "paraphrase": question_pairs,
    "sts": similarity_pairs,
}
DEMO_TASKS = tuple(_GENERATORS)
DEMO_SIZES = {"train": 1200, "dev": 300, "test": 300}

__all__ = ["DEMO_SIZES", "DEMO_TASKS", "demo_examples"]


def demo_examples(task: str, split: str) -> list[Example]:
    """The labelled examples of a task ("sst", "paraphrase" or "sts") and split ("train", "dev" or "test").

    No sentence occurs in two splits of a task. Raises InputError for an unknown task or split.
    """
    if task not in DEMO_TASKS:
        raise InputError(f"demo data: unknown task {task!r}, {did_you_mean(task, DEMO_TASKS)}")
    if split not in SPLITS:
        raise InputError(f"demo data: unknown split {split!r}, {did_you_mean(split, SPLITS)}")
    return list(_generate(task)[split])


@cache
def _generate(task: str) -> dict[str, tuple[Example, ...]]:
    """All splits of a task, which are generated together since the text itself decides on its split."""
    rng = random.Random(zlib.crc32(task.encode()))
    rows: dict[str, list[Any]] = _GENERATORS[task](rng, DEMO_SIZES)
    examples = {}
    for split, split_rows in rows.items():
        shuffle(rng, split_rows)
        examples[split] = tuple(
            Example(
                id=f"demo-{task}-{split}-{number:05d}",
                first=texts[0],
                second=texts[1] if len(texts) == 2 else None,
                label=float(label),
                source=f"demo {task} {split} {number}",
            )
            for number, (*texts, label) in enumerate(split_rows)
        )
    return examples
