"""What all peers share: padded batches, and the stock encoder with a linear head a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from concord.train.data.tokenized import TokenizedSplit


@dataclass(frozen=True)
class PaddedBatch:
    """One task's batch: ids, segments, mask int64 [examples, longest]; labels fp32 [examples]."""

    ids: Tensor
    segments: Tensor
    mask: Tensor
    labels: Tensor


def pad(split: TokenizedSplit, examples: np.ndarray, device: torch.device | str, multiple: int = 1) -> PaddedBatch:
    """One task's examples, padded to the longest of them, rounded up to a multiple.

    Scores of a regression are shares of their range, as Concord trains them.
    """
    starts, stops = split.cu_seqlens[examples], split.cu_seqlens[examples + 1]
    longest = -(-int((stops - starts).max()) // multiple) * multiple
    ids, segments, mask = np.zeros((3, len(examples), longest), dtype=np.int64)
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        length = stop - start
        ids[row, :length], segments[row, :length], mask[row, :length] = (
            split.ids[start:stop],
            split.segments[start:stop],
            1,
        )
    labels = split.labels[examples]
    if split.task.kind == "regression":
        labels = (labels - split.task.low) / (split.task.high - split.task.low)
    return PaddedBatch(*(torch.from_numpy(array).to(device) for array in (ids, segments, mask, labels)))


class PaddedModel(nn.Module):
    """One BERT with a linear head a task.

    Args:
        model: directory of the weights, or the configuration of an encoder whose weights are random.
        outputs: task -> logits.
        kinds: task -> classification, binary or regression.
        attention: what transformers computes attention with: eager or sdpa.
        dropout: rate everywhere, or None for the model's own, with 0.1 on the heads' features.
    """

    def __init__(
        self,
        model: Path | BertConfig,
        outputs: Mapping[str, int],
        kinds: Mapping[str, str],
        *,
        attention: str,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        configuration = model if isinstance(model, BertConfig) else BertConfig.from_pretrained(model)
        if dropout is not None:
            configuration.hidden_dropout_prob = configuration.attention_probs_dropout_prob = dropout
        self.kinds = kinds
        options = {"attn_implementation": attention, "dtype": torch.float32}
        if isinstance(model, BertConfig):
            self.encoder = BertModel._from_config(configuration, **options).train()
        else:
            self.encoder = BertModel.from_pretrained(model, config=configuration, **options).train()
        self.heads = nn.ModuleDict({task: nn.Linear(configuration.hidden_size, n) for task, n in outputs.items()})
        self.dropout = nn.Dropout(0.1 if dropout is None else dropout)

    def pooled(self, batch: PaddedBatch) -> Tensor:
        """The pooled output of each example, [examples, hidden]."""
        return self.encoder(batch.ids, attention_mask=batch.mask, token_type_ids=batch.segments).pooler_output

    def logits_of(self, task: str, pooled: Tensor) -> Tensor:
        """The task's logits, fp32 [examples, outputs]."""
        return self.heads[task](self.dropout(pooled)).float()

    def loss_of(self, task: str, pooled: Tensor, labels: Tensor) -> Tensor:
        """The task's mean loss."""
        logits = self.logits_of(task, pooled)
        if self.kinds[task] == "classification":
            return functional.cross_entropy(logits, labels.long())
        if self.kinds[task] == "binary":
            return functional.binary_cross_entropy_with_logits(logits.squeeze(1), labels)
        return functional.mse_loss(logits.squeeze(1), labels)

    def forward(self, task: str, batch: PaddedBatch) -> Tensor:
        """The task's mean loss over a batch."""
        return self.loss_of(task, self.pooled(batch), batch.labels)
