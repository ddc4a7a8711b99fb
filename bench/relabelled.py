"""Two tasks made of SST that want different things: plain, and a second one with other labels for its sentences."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concord.bert.files import make_folder
from concord.train.data.course import read_split
from concord.train.data.sampler import JointSampler
from concord.train.data.tasks import BUILT_IN_TASKS, Example
from concord.train.settings.parts import BatchConfig

PLAIN = "plain"
_NEUTRAL = 2  # of SST's five classes
# What the second task is called -> its label in the place of another, of so many classes.
LABELS: Mapping[str, Callable[[int, int], int]] = {
    "mirrored": lambda label, classes: classes - 1 - label,
    "rotated": lambda label, classes: (label + 2) % classes,
}


@dataclass(frozen=True)
class Relabelled:
    """What the two tasks are.

    Attributes:
        second: the name of the second task, of `LABELS`: mirrored (very negative is very positive) or rotated by two
            (very negative is neutral), so that the classes' shares differ, too.
        share: of its sentences, in [0, 1], whose labels are others, evenly spread over each set.
        sides: whether sentences are negative or positive alone, as many of either, instead of five classes.
        marked: whether its sentences begin with a word that tells it from the first, so that an encoder can answer
            both however their labels differ.
    """

    second: str = "mirrored"
    share: float = 1.0
    sides: bool = False
    marked: bool = True

    def write(self, directory: Path, out: Path) -> Path:
        """Write the tables of both tasks and their tasks.toml into `out`, and return its path.

        directory: of SST in the course layout.
        """
        make_folder(out)
        sst = next(task for task in BUILT_IN_TASKS if task.name == "sst")
        lines = []
        for task in (PLAIN, self.second):
            lines += [f"[{task}]", 'text_columns = ["text"]', 'label_column = "label"', 'kind = "classification"']
            for key, split in (("train", "train"), ("validation", "dev")):
                found = read_split(sst, directory, split, skip_bad_rows=True)
                examples = found.examples if found else []
                path = out / f"{task}-{split}.csv"
                with path.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["id", "text", "label"])
                    writer.writerows(self._rows(task, _of_sides(examples) if self.sides else examples))
                lines.append(f'{key} = "{path.name}"')
        tasks = out / "tasks.toml"
        tasks.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tasks

    def _rows(self, task: str, examples: list[Example]) -> list[tuple[str, str, int]]:
        """The rows of a task's table: id, text and label."""
        classes, found = (2 if self.sides else 5), []
        for place, example in enumerate(examples):
            label, text = int(example.label or 0), example.first
            if self.sides:
                label = int(label > _NEUTRAL)
            if task != PLAIN:
                if int((place + 1) * self.share) > int(place * self.share):
                    label = LABELS[task](label, classes)
                text = f"{task} : {text}" if self.marked else text
            found.append((example.id, text, label))
        return found


def _of_sides(examples: list[Example]) -> list[Example]:
    """The first negative and the first positive examples, as many of either as there are, in their order."""
    sides = [[], []]
    for place, example in enumerate(examples):
        if example.label != _NEUTRAL:
            sides[example.label > _NEUTRAL].append(place)
    most = min(map(len, sides))
    kept = sorted(place for side in sides for place in side[:most])
    return [examples[place] for place in kept]


class SameSentences(JointSampler):
    """Joint batches in which each task has the examples of the same rows: all tasks have the first one's orders."""

    def _permutation(self, task: str, cycle: int) -> np.ndarray:
        return super()._permutation(next(iter(self._sizes)), cycle)


def same_sentences(sizes: Mapping[str, int], plan: BatchConfig) -> SameSentences:
    """For `--batching bench.relabelled:same_sentences`, of sets with as many rows."""
    return SameSentences(sizes, batch_size=plan.batch_size, accumulate=plan.accumulate, seed=plan.seed)
