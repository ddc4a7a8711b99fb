"""The peer with TorchJD (PCGrad): from the Jacobian, or from the Gramian that its engine computes without one."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchjd.aggregation import PCGrad, PCGradWeighting
from torchjd.autogram import Engine
from torchjd.autojac import jac_to_grad, mtl_backward

from bench.peers.padded import PaddedBatch, PaddedModel


class TorchJDTrainer:
    """Trains `model`.

    Args:
        model: with attention by SDPA.
        learning_rate: of all parameters.
        gramian: whether TorchJD's engine computes the Gram matrix and one weighted backward follows; otherwise its
            Jacobian of the shared parameters is computed, one task after the other, and aggregated.
        amp: autocast's dtype, or None.
    """

    def __init__(
        self, model: PaddedModel, *, learning_rate: float, gramian: bool, amp: torch.dtype | None = None
    ) -> None:
        self.model, self._amp = model, amp
        self.shared = list(model.encoder.parameters())
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, fused=True)
        self._engine = Engine(model.encoder, batch_dim=None) if gramian else None

    def step(self, batches: Mapping[str, PaddedBatch]) -> None:
        """One training step over a batch of every task."""
        self.optimizer.zero_grad(set_to_none=True)
        pooled, losses = [], []
        with torch.autocast(self.shared[0].device.type, self._amp, enabled=self._amp is not None):
            for task, batch in batches.items():
                pooled.append(self.model.pooled(batch))
                losses.append(self.model.loss_of(task, pooled[-1], batch.labels))
        if self._engine is None:
            mtl_backward(losses, features=pooled, shared_params=self.shared, parallel_chunk_size=1)
            jac_to_grad(self.shared, PCGrad())
        else:
            self._backward_by_gramian(self._engine, torch.stack(losses), losses)
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()

    def _backward_by_gramian(self, engine: Engine, stacked: Tensor, losses: list[Tensor]) -> None:
        weights = PCGradWeighting()(engine.compute_gramian(stacked))
        # The weights are for what the tasks share: each head keeps its own loss's gradient.
        heads = list(self.model.heads.parameters())
        for parameter, gradient in zip(
            heads, torch.autograd.grad(torch.stack(losses).sum(), heads, retain_graph=True), strict=True
        ):
            parameter.grad = gradient
        torch.autograd.backward(stacked, weights, inputs=self.shared)
