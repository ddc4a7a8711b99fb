"""The worst mistakes of a model on a labelled set, with the texts, gold and predicted values, as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from concord.bert.files import replacing
from concord.train.data.tasks import Example, Task
from concord.train.outputs.predictions import answer_text, label_text
from concord.train.steps.evaluation import Answers


def write_mistakes(path: Path, task: Task, examples: Sequence[Example], answers: Answers, count: int) -> None:
    """Write the `count` examples whose answers are the most wrong, the worst first: id, error (see
    `train.objectives.answers.task_errors`), gold, predicted, and the sentences. An answer that is right is none of
    them, however unsure."""
    labels = np.array([example.label for example in examples])
    order = np.argsort(-answers.errors, kind="stable")
    order = order[answers.predictions[order] != labels[order]][:count]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pair = any(example.second is not None for example in examples)
    writer.writerow(["id", "error", "gold", "predicted", *(("sentence1", "sentence2") if pair else ("sentence",))])
    for index in order:
        example = examples[index]
        texts = [example.first, example.second] if pair else [example.first]
        gold, predicted = label_text(task, example.label), answer_text(task, answers.predictions[index])
        writer.writerow([example.id, f"{answers.errors[index]:.3f}", gold, predicted, *texts])
    with replacing(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")
