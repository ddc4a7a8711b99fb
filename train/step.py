"""One training step on one screen: packed batches -> losses -> one backward each -> surgery -> optimizer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bert.multitask import MultitaskModel
from kernels import DropoutStream, SurgeryPlan
from train.batches import LabelledBatch
from train.losses import task_loss
from train.optimizer import SurgeryOptimizer
from train.tasks import Task


@dataclass(frozen=True)
class StepOutput:
    """losses: task -> fp32 scalar, the mean over the step's examples; plan: what surgery and optimizer did. All of it
    is on the device: reading it waits for it."""

    losses: dict[str, Tensor]
    plan: SurgeryPlan


class TrainingStep:
    """What a step computes. It asks the device for nothing, so that a CUDA graph can hold it."""

    def __init__(self, model: MultitaskModel, optimizer: SurgeryOptimizer, tasks: Mapping[str, Task]) -> None:
        self._model, self._optimizer, self._tasks = model, optimizer, tasks
        self._device = model.shared.master.device

    def __call__(
        self, batches: Iterable[LabelledBatch], examples: Mapping[str, int], *, seed: Tensor, rate_factor: Tensor
    ) -> StepOutput:
        """Accumulate the task gradients of `batches`, merge them, and update all parameters.

        examples: task -> how many the batches hold together; seed: int64 scalar, of dropout and of surgery's orders;
        rate_factor: fp32 scalar, by which the learning rates are multiplied.
        """
        losses = {task: torch.zeros((), device=self._device) for task in self._tasks}
        self._optimizer.zero_private_gradients()
        for number, batch in enumerate(batches):
            logits = self._model(batch.packed, DropoutStream(seed, number))
            parts = {
                task: task_loss(self._tasks[task], logits[task], labels, examples[task])
                for task, labels in batch.labels.items()
            }
            # One backward of the sum: each task's own gradient is in its own rows.
            (torch.stack(list(parts.values())).sum() * self._optimizer.loss_scale).backward()
            for task, part in parts.items():
                losses[task] += part.detach()
        return StepOutput(losses, self._optimizer.step(seed=seed, rate_factor=rate_factor))
