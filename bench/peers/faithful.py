"""The peer as the papers trained: padded batches, one backward a task, PCGrad on whole-model vectors, AdamW.

PCGrad follows the semantics of the library that the papers used: every gradient is a vector over all parameters, heads
included; each task's running gradient meets the others' original ones in a fresh random order; the merged gradient is
the mean over parameters that all tasks reach and the sum over the rest. Every backward retains its graph, masks are
fp32 vectors, and conflicts are decided on the host.
"""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.peers.padded import PaddedBatch, PaddedModel


class FaithfulTrainer:
    """Trains `model`; learning_rate: of all parameters; seed: of surgery's orders; amp: autocast's dtype, or None."""

    def __init__(
        self, model: PaddedModel | nn.Module, *, learning_rate: float, seed: int = 1, amp: torch.dtype | None = None
    ) -> None:
        self.model, self._amp = model, amp
        self._random = random.Random(seed)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate)

    def step(self, batches: Mapping[str, PaddedBatch]) -> None:
        """One training step over a batch of every task."""
        device = self.parameters[0].device.type
        with torch.autocast(device, self._amp, enabled=self._amp is not None):
            losses = [self.model(task, batch) for task, batch in batches.items()]
        gradients, reached = [], []
        for loss in losses:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward(retain_graph=True)
            gradients.append(torch.cat([_flat_gradient(parameter) for parameter in self.parameters]))
            reached.append(torch.cat([_reached(parameter) for parameter in self.parameters]))
        self.merge_and_step(gradients, reached)

    def merge_and_step(self, gradients: Sequence[Tensor], reached: Sequence[Tensor]) -> None:
        """Surgery, clipping and AdamW, from each task's gradient and mask over all parameters, fp32 [P] each."""
        merged = self._project(gradients, reached)
        for parameter, gradient in zip(
            self.parameters, merged.split([parameter.numel() for parameter in self.parameters]), strict=True
        ):
            parameter.grad = gradient.view_as(parameter)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

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
        return torch.zeros(parameter.numel(), device=parameter.device)
    return parameter.grad.detach().clone().flatten()


def _reached(parameter: nn.Parameter) -> Tensor:
    return torch.full((parameter.numel(),), float(parameter.grad is not None), device=parameter.device)
