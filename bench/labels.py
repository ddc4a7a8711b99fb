"""Texts to labels, as trained models are used: by Concord, and by transformers' pipeline with the exported model.

Both read the same weights, cut texts at the same number of wordpieces, and tokenise within what is timed.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import transformers

from bench.encoders import BATCH
from concord import RunConfig, fine_tune, load
from concord.train.exports.exporting import export_run
from concord.train.reporter import SILENT
from concord.train.steps.precision import Precision

TASK = "sst"
Classify = Callable[[Sequence[str]], list[tuple[str, float]]]
"""Texts -> the label of each, and its score."""


def trained_classifier(folder: Path, longest: int) -> tuple[Path, Path]:
    """A run that classifies texts by MiniLM, cut at `longest` wordpieces, and its export for transformers."""
    # Trained for one step: no label is worth anything, and none costs more or less for that.
    settings = {"tasks": (TASK,), "max_steps": 1, "dev_examples": 8, "skip_test": True, "cuda_graphs": "off"}
    result = fine_tune(RunConfig(max_length=longest, head_learning_rate=("0.1",), **settings), folder / "run")
    exported = folder / "exported"
    choices = {"names": [], "eight_bit": False, "data": "", "examples": 0}
    export_run(result.directory, SILENT, form="transformers", output=exported, **choices)
    return result.directory, exported


def concord_classifier(run: Path, precision: Precision) -> Classify:
    """Concord's packed path, as a program uses it."""
    amp = {"fp32": "off"}.get(precision.name, precision.name)
    model = load(run, device=precision.device.type, amp=amp)

    def classify(texts: Sequence[str]) -> list[tuple[str, float]]:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the peer cuts texts without a word
            labels, scores = model.predict(TASK, texts, return_scores=True)
        return [(str(label), float(row.max())) for label, row in zip(labels, scores, strict=True)]

    return classify


def pipeline_classifier(exported: Path, precision: Precision) -> Classify:
    """transformers' pipeline, in batches as the texts come."""
    pipeline = transformers.pipeline(
        "text-classification", model=str(exported), device=precision.device, dtype=precision.compute_dtype
    )

    def classify(texts: Sequence[str]) -> list[tuple[str, float]]:
        found = pipeline(list(texts), batch_size=BATCH, truncation=True)
        return [(one["label"], one["score"]) for one in found]

    return classify
