"""Evaluation as stock PyTorch does it best: examples sorted by length, padded batches, SDPA, inference mode."""

import numpy as np
import torch

from bench.peers.padded import PaddedBatch, PaddedModel, pad
from concord.train.data.tokenized import TokenizedSplit
from concord.train.objectives.answers import task_predictions


class PaddedEvaluator:
    """Answers each example of a task's set, which is padded and on the device beforehand.

    Args:
        model: in the dtype to compute in; its dropout is switched off.
        split: the task's set.
        batch_size: examples a batch, of similar length.
        device: of the model.
    """

    def __init__(self, model: PaddedModel, split: TokenizedSplit, batch_size: int, device: torch.device) -> None:
        self.model, self.task = model.eval(), split.task
        order = np.argsort(np.diff(split.cu_seqlens), kind="stable")
        self._examples = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self._batches: list[PaddedBatch] = [pad(split, examples, device) for examples in self._examples]
        self._count = len(split)

    @property
    def computed_tokens(self) -> int:
        """Tokens that are computed, padding included."""
        return sum(batch.ids.numel() for batch in self._batches)

    @torch.inference_mode()
    def predict(self) -> np.ndarray:
        """What the model answers for each example, float64 [examples], in the set's order."""
        predictions = np.zeros(self._count)
        for examples, batch in zip(self._examples, self._batches, strict=True):
            logits = self.model.logits_of(self.task.name, self.model.pooled(batch))
            predictions[examples] = task_predictions(self.task, logits)
        return predictions
