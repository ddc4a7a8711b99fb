"""The best that stock PyTorch gives: SDPA, torch.compile, fused AdamW, and PCGrad on flat vectors, or a plain sum.

Each task has a forward and a backward of its own, so that no graph is retained. PCGrad projects the shared parameters
only, decides on the device, and leaves each head its own task's gradient.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.peers.padded import PaddedBatch, PaddedModel


class StockTrainer:
    """Trains `model`.

    Args:
        model: with attention by SDPA.
        learning_rate: of all parameters.
        surgery: whether to project; without it the losses are summed and there is one backward.
        compile_mode: of torch.compile, for the encoder; None leaves it uncompiled.
        capturable: whether `clip_and_step` may be captured as a CUDA graph; needs CUDA.
        seed: of surgery's orders.
        amp: autocast's dtype, or None.
    """

    def __init__(
        self,
        model: PaddedModel | nn.Module,
        *,
        learning_rate: float,
        surgery: bool = True,
        compile_mode: str | None = None,
        capturable: bool = False,
        seed: int = 1,
        amp: torch.dtype | None = None,
    ) -> None:
        self.model, self._surgery, self._amp = model, surgery, amp
        self.shared = list(model.encoder.parameters())
        self.parameters = list(model.parameters())
        device = self.shared[0].device
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, fused=True, capturable=capturable)
        self._generator = torch.Generator().manual_seed(seed)
        self._loss: nn.Module = model
        self._compiled = compile_mode is not None
        if self._compiled:
            self._loss = torch.compile(model, mode=compile_mode, dynamic=False)
        self._gradients = torch.zeros(0, device=device)

    def step(self, batches: Mapping[str, PaddedBatch]) -> None:
        """One training step over a batch of every task."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._surgery:
            self._backward_of_each(batches)
            self.merge(self._gradients)
        else:
            torch.stack([self._loss_of(task, batch) for task, batch in batches.items()]).sum().backward()
        self.clip_and_step()

    def merge(self, gradients: Tensor) -> None:
        """Surgery on the shared parameters' gradients, fp32 [T, P]."""
        merged = self._project(gradients)
        sizes = [parameter.numel() for parameter in self.shared]
        for parameter, gradient in zip(self.shared, merged.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def clip_and_step(self) -> None:
        """Clipping and AdamW."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()

    def _loss_of(self, task: str, batch: PaddedBatch) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.shared[0].device.type, self._amp, enabled=self._amp is not None):
            return self._loss(task, batch)

    def _backward_of_each(self, batches: Mapping[str, PaddedBatch]) -> None:
        sizes = [parameter.numel() for parameter in self.shared]
        if len(self._gradients) != len(batches):
            self._gradients = torch.zeros(len(batches), sum(sizes), device=self.shared[0].device)
        for row, (task, batch) in zip(self._gradients, batches.items(), strict=True):
            for parameter in self.shared:
                parameter.grad = None
            self._loss_of(task, batch).backward()
            torch.cat([parameter.grad.flatten() for parameter in self.shared], out=row)
            if self._compiled:
                # Gradients may lie in the memory of a CUDA graph, which the next task's forward takes again.
                for parameter in self.model.heads[task].parameters():
                    parameter.grad = parameter.grad.clone()

    def _project(self, gradients: Tensor) -> Tensor:
        """The sum of the projected rows of `gradients` [T, P]."""
        squares = gradients.square().sum(1).clamp_min(1e-30)
        total = torch.zeros_like(gradients[0])
        for task in range(len(gradients)):
            running = gradients[task].clone()
            for other in torch.randperm(len(gradients), generator=self._generator).tolist():
                if other != task:
                    conflict = torch.dot(running, gradients[other]).clamp_max(0)
                    running.addcmul_(gradients[other], conflict / squares[other], value=-1)
            total += running
        return total
