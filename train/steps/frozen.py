"""A frozen encoder's pooled outputs, computed once, and batches of them: for a stage's steps and its evaluations."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from concord.bert.batch import PooledBatch
from concord.bert.multitask import MultitaskModel
from concord.kernels.layout.rows import TaskRows
from concord.train.data.batches import LabelledBatch
from concord.train.data.sampler import MicroBatch
from concord.train.data.tokenized import TokenizedSplit
from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT, Reporter
from concord.train.steps.evaluation import encode


class FrozenBatches:
    """What the encoder makes of examples, without dropout, as its weights are now.

    Args:
        model: whose encoder.
        splits: task -> its set, in the order of the model's tasks.
        examples: task -> int64 indices, rising, of the examples that batches may hold.
        device: where the outputs are kept, in the compute dtype.
        reporter: is told of each batch that the encoder has read.
        ranks: divide what the encoder reads, and all have all outputs.
    """

    def __init__(
        self,
        model: MultitaskModel,
        splits: Mapping[str, TokenizedSplit],
        examples: Mapping[str, np.ndarray],
        device: torch.device,
        reporter: Reporter = SILENT,
        ranks: Ranks | None = None,
    ) -> None:
        self._splits, self._examples, self._device = splits, examples, device
        self._pooled = {
            task: encode(model, split, examples[task], device, reporter, ranks) for task, split in splits.items()
        }

    def gather(self, micro_batch: MicroBatch, *, accumulate: bool = False) -> LabelledBatch:
        """The pooled outputs and labels of a micro-batch; accumulate: see `bert.batch.pack`."""
        pieces, labels, counts = [], {}, []
        for task, split in self._splits.items():
            examples = micro_batch[task]
            sequences = split.sequences_of(np.searchsorted(self._examples[task], examples))
            pieces.append(self._pooled[task][torch.from_numpy(sequences).to(self._device)])
            counts.append(len(sequences))
            if len(examples):
                labels[task] = torch.from_numpy(split.labels[examples]).to(self._device)
        rows = TaskRows.of_counts(counts, self._device, accumulate=accumulate)
        return LabelledBatch(PooledBatch(pooled=torch.cat(pieces), sequence_rows=rows), labels)


class KeptOutputs:
    """The pooled outputs of whole sets, for as long as the encoder's weights stay as they are, to the bit."""

    def __init__(self) -> None:
        self._weights: dict[str, Tensor] = {}
        self._batches: FrozenBatches | None = None

    def of(
        self,
        model: MultitaskModel,
        splits: Mapping[str, TokenizedSplit],
        device: torch.device,
        reporter: Reporter = SILENT,
        ranks: Ranks | None = None,
    ) -> FrozenBatches:
        """Those of all examples of `splits`, in the order of the model's tasks, which are to be the same each time."""
        weights = dict(model.encoder.named_parameters())  # what the forward reads
        if self._batches is None or any(not torch.equal(kept, weights[name]) for name, kept in self._weights.items()):
            self._weights = {name: value.detach().clone() for name, value in weights.items()}
            examples = {task: np.arange(len(split)) for task, split in splits.items()}
            self._batches = FrozenBatches(model, splits, examples, device, reporter, ranks)
        return self._batches
