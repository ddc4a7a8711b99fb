"""What benchmarks read without the course's data: random tokens or texts at its lengths. python -m bench.lengths.

`lengths.json` holds, for each task, how many training sequences there are of each length in tokens, pairs encoded as
one. The command counts them anew: python -m bench.lengths --data DIR, a folder in the course layout.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np

from concord.bert.files import replacing
from concord.bert.models import load_model
from concord.train.command import run_command
from concord.train.data.datasets import load_datasets, run_tasks
from concord.train.data.tasks import Task, select_tasks
from concord.train.data.tokenized import TokenizedSplit
from concord.train.flags import OneLineParser
from concord.train.outputs.progress import ConsoleReporter
from concord.train.settings.config import RunConfig
from concord.train.settings.typed import fine_tuning_config

FILE = Path(__file__).parent / "lengths.json"
TASKS = ("sst", "paraphrase", "sts")
# Of the vocabulary of bert-base-uncased, which MiniLM shares.
CLS, SEP, FIRST_WORD, VOCABULARY = 101, 102, 999, 30522

Histogram = dict[int, int]
"""Length of a sequence in tokens -> how many there are."""
Splits = dict[str, TokenizedSplit]
"""Task -> its examples."""


def load_splits(data: str, split: str) -> dict[str, TokenizedSplit]:
    """The "train" or "dev" split of each task, of a folder in the course layout; InputError where it cannot be read."""
    config = fine_tuning_config(RunConfig(data=data, tasks=TASKS, skip_bad_rows=True)).data
    tokenizer = load_model("minilm", seed=1).tokenizer
    found = load_datasets(config, run_tasks(config), tokenizer, None, ConsoleReporter(), splits=(split,))
    return getattr(found, split)


def count_lengths(splits: Mapping[str, TokenizedSplit]) -> dict[str, Histogram]:
    """Task -> its histogram, from the shortest length to the longest."""
    counted = {}
    for task, split in splits.items():
        lengths, counts = np.unique(np.diff(split.cu_seqlens), return_counts=True)
        counted[task] = dict(zip(lengths.tolist(), counts.tolist(), strict=True))
    return counted


def write_lengths(histograms: Mapping[str, Histogram], path: Path) -> None:
    """Write the histograms as JSON, a task a line."""
    lines = ",\n".join(f" {json.dumps(task)}: {json.dumps(counts)}" for task, counts in histograms.items())
    with replacing(path) as beside:
        beside.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def read_lengths(path: Path = FILE) -> dict[str, Histogram]:
    """The histograms that `write_lengths` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {task: {int(length): count for length, count in counts.items()} for task, counts in content.items()}


def splits_of_lengths(histograms: Mapping[str, Histogram], seed: int = 1) -> dict[str, TokenizedSplit]:
    """Random examples of each task, whose sequences have the histogram's lengths, in random order.

    The same seed gives the same examples.
    """
    tasks = select_tasks(list(histograms), None)
    splits = {}
    for number, task in enumerate(tasks):
        generator = np.random.default_rng((seed, number))
        histogram = histograms[task.name]
        lengths = generator.permutation(np.repeat(list(histogram), list(histogram.values())))
        splits[task.name] = random_split(task, lengths, generator)
    return splits


def splits_of_tasks(count: int, examples: int, histograms: Mapping[str, Histogram], seed: int = 1) -> Splits:
    """Random examples of `count` tasks, of the three kinds in turn, `examples` of each; all have lengths as the data's
    tasks have them together, so that a step of as many examples is as long whatever the tasks' number.
    """
    pooled: Counter[int] = Counter()
    for histogram in histograms.values():
        pooled.update(histogram)
    lengths, counts = np.array(list(pooled)), np.array(list(pooled.values()), dtype=np.float64)
    splits = {}
    for number, kind in zip(range(count), cycle(select_tasks(list(histograms), None)), strict=False):
        generator = np.random.default_rng((seed, number))
        drawn = np.maximum(generator.choice(lengths, examples, p=counts / counts.sum()), 5)
        task = replace(kind, name=f"{kind.name}_{number}")
        splits[task.name] = random_split(task, drawn, generator)
    return splits


def splits_of_one_length(length: int, examples: int, seed: int = 1) -> dict[str, TokenizedSplit]:
    """Random examples of each task, `examples` of them, whose sequences all have `length` tokens."""
    return splits_of_lengths({task: {length: examples} for task in TASKS}, seed)


def random_split(task: Task, lengths: np.ndarray, generator: np.random.Generator) -> TokenizedSplit:
    """One random example a length: int64 [examples], special tokens included, 5 or more for pairs, else 3.

    Words are as frequent as they are in texts: the n-th 1/n times as frequent as the first, since what the gradient of
    the embeddings costs depends on how often they come again. Labels are evenly spread.
    """
    ends = np.cumsum(lengths)
    starts, total = ends - lengths, int(lengths.sum())
    ranks = np.exp(generator.random(total) * np.log(VOCABULARY - FIRST_WORD))
    # Frequent words are all over the vocabulary, as they would not be by rank.
    words = generator.permutation(np.arange(FIRST_WORD, VOCABULARY, dtype=np.int32))
    ids = words[ranks.astype(np.int64) - 1]
    segments = np.zeros(total, dtype=np.uint8)
    ids[starts], ids[ends - 1] = CLS, SEP
    if task.pair:
        middles = starts + lengths // 2
        ids[middles] = SEP
        offsets = np.arange(total) - np.repeat(middles, lengths)
        segments[offsets > 0] = 1
    if task.kind == "regression":
        labels = generator.uniform(task.low, task.high, len(lengths))
    else:
        labels = generator.integers(int(task.low), int(task.high) + 1, len(lengths))
    return TokenizedSplit(
        task=task,
        example_ids=[str(number) for number in range(len(lengths))],
        ids=ids,
        segments=segments,
        cu_seqlens=np.concatenate([[0], ends]).astype(np.int64),
        sequences_per_example=1,
        labels=labels.astype(np.float32),
        truncated=0,
        digest="",
    )


def texts_of_lengths(histograms: Mapping[str, Histogram], count: int, words: Sequence[str], seed: int = 1) -> list[str]:
    """`count` random texts, of lengths that the data's sequences have together, special tokens included.

    words: of one wordpiece each; as frequent as in `random_split`. The same seed gives the same texts.
    """
    generator = np.random.default_rng(seed)
    pooled = np.concatenate([np.repeat(list(own), list(own.values())) for own in histograms.values()])
    # Frequent words are all over the vocabulary, as they would not be by rank.
    shuffled = generator.permutation(np.array(words))
    texts = []
    for length in generator.choice(pooled, count):
        ranks = np.exp(generator.random(max(1, length - 2)) * np.log(len(words)))
        texts.append(" ".join(shuffled[ranks.astype(np.int64) - 1]))
    return texts


def first_examples(split: TokenizedSplit, examples: int) -> TokenizedSplit:
    """The first examples of a set, or all where it has no more."""
    bounds = split.cu_seqlens[: examples * split.sequences_per_example + 1]
    return replace(
        split,
        example_ids=split.example_ids[:examples],
        ids=split.ids[: bounds[-1]],
        segments=split.segments[: bounds[-1]],
        cu_seqlens=bounds,
        labels=split.labels[:examples],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Count the lengths of a data set's training sequences and write them; InputError where it cannot be read."""
    parser = OneLineParser(prog="python -m bench.lengths", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder in the course layout, whose training files are counted")
    histograms = count_lengths(load_splits(parser.parse(arguments).data, "train"))
    write_lengths(histograms, FILE)
    for task, counts in histograms.items():
        tokens = sum(length * count for length, count in counts.items())
        sequences = sum(counts.values())
        spread = f"{min(counts)} to {max(counts)} tokens, {tokens / sequences:.1f} on average"
        print(f"{task}: {sequences} sequences of {spread}")
    print(FILE)


if __name__ == "__main__":
    sys.exit(run_command(main))
