"""The peer as the papers trained: padded batches, one backward a task, PCGrad on whole-model vectors, AdamW.

PCGrad follows the semantics of the library that the papers used: every gradient is a vector over all parameters, heads
included; each task's running gradient meets the others' original ones in a fresh random order; the merged gradient is
the mean over parameters that all tasks reach and the sum over the rest.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel


@dataclass(frozen=True)
class PaddedBatch:
    """One task's batch: ids, segments, mask int64 [examples, longest]; labels fp32 [examples]."""

    ids: Tensor
    segments: Tensor
    mask: Tensor
    labels: Tensor


class FaithfulTrainer:
    """One BERT with a linear head a task.

    Args:
        model: directory of the weights.
        outputs: task -> logits.
        kinds: task -> classification, binary or regression.
        learning_rate: of all parameters.
        seed: of heads, dropout and the orders of surgery.
    """

    def __init__(
        self, model: Path, outputs: Mapping[str, int], kinds: Mapping[str, str], *, learning_rate: float, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self._kinds = kinds
        self._random = random.Random(seed)
        configuration = BertConfig.from_pretrained(model)
        self.encoder = BertModel.from_pretrained(model, config=configuration).train()
        self.heads = nn.ModuleDict({task: nn.Linear(configuration.hidden_size, n) for task, n in outputs.items()})
        self.dropout = nn.Dropout(0.1)
        self.parameters = [*self.encoder.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate)

    def step(self, batches: Mapping[str, PaddedBatch]) -> None:
        """One training step over a batch of every task."""
        losses = [self._loss(task, batch) for task, batch in batches.items()]
        gradients, reached = [], []
        for loss in losses:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward(retain_graph=True)
            gradients.append(torch.cat([_flat_gradient(parameter) for parameter in self.parameters]))
            reached.append(torch.cat([_reached(parameter) for parameter in self.parameters]))
        merged = self._project(gradients, reached)
        for parameter, gradient in zip(
            self.parameters, merged.split([parameter.numel() for parameter in self.parameters]), strict=True
        ):
            parameter.grad = gradient.view_as(parameter)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

    def _loss(self, task: str, batch: PaddedBatch) -> Tensor:
        pooled = self.encoder(batch.ids, attention_mask=batch.mask, token_type_ids=batch.segments).pooler_output
        logits = self.heads[task](self.dropout(pooled))
        if self._kinds[task] == "classification":
            return functional.cross_entropy(logits, batch.labels.long())
        if self._kinds[task] == "binary":
            return functional.binary_cross_entropy_with_logits(logits.squeeze(1), batch.labels)
        return functional.mse_loss(logits.squeeze(1), batch.labels)

    def _project(self, gradients: Sequence[Tensor], reached: Sequence[Tensor]) -> Tensor:
        projected = [gradient.clone() for gradient in gradients]
        for running in projected:
            others = list(gradients)
            self._random.shuffle(others)
            for other in others:
                dot = torch.dot(running, other)
                if dot < 0:
                    running -= dot * other / other.norm() ** 2
        shared = torch.stack(list(reached)).prod(0).bool()
        stacked = torch.stack(projected)
        merged = torch.zeros_like(gradients[0])
        merged[shared] = stacked[:, shared].mean(0)
        merged[~shared] = stacked[:, ~shared].sum(0)
        return merged


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros(parameter.numel())
    return parameter.grad.detach().clone().flatten()


def _reached(parameter: nn.Parameter) -> Tensor:
    return torch.full((parameter.numel(),), float(parameter.grad is not None))
