"""One training step on one screen: packed batches -> losses -> one backward -> surgery -> optimizer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concord.bert.batch import PackedBatch
from concord.bert.multitask import MultitaskModel
from concord.kernels.dropout import DropoutStream
from concord.kernels.surgery.plan import SurgeryPlan
from concord.train.data.batches import LabelledBatch
from concord.train.objectives.objectives import Objective
from concord.train.objectives.smart import Smoothness
from concord.train.steps.deposits import check_deposits
from concord.train.steps.optimizer import SurgeryOptimizer


@dataclass(frozen=True)
class StepOutput:
    """What a step gives, all of it on the device: reading it waits for it.

    Attributes:
        losses: task -> fp32 scalar, the unweighted mean over the step's examples.
        plan: what surgery and optimizer did.
    """

    losses: dict[str, Tensor]
    plan: SurgeryPlan


class TrainingStep:
    """What a step computes. It asks the device for nothing, so that a CUDA graph can hold it.

    objectives: task -> what is minimised for it, SMART's regulariser where batches have sequences for it.
    """

    def __init__(
        self,
        model: MultitaskModel,
        optimizer: SurgeryOptimizer,
        objectives: Mapping[str, Objective],
    ) -> None:
        self._model, self._optimizer, self._objectives = model, optimizer, objectives
        self._smoothness = Smoothness(model, objectives)
        self._device = model.shared.master.device
        self._deposits_checked = False

    def __call__(
        self,
        batches: Iterable[LabelledBatch],
        examples: Mapping[str, int],
        *,
        seed: Tensor,
        rate_factor: Tensor,
        epoch: Tensor,
    ) -> StepOutput:
        """Accumulate the task gradients of `batches`, merge them, and update all parameters.

        examples: task -> how many the batches hold together; seed: int64 scalar, of dropout and of surgery's orders;
        rate_factor: fp32 scalar, by which the learning rates are multiplied; epoch: fp32 scalar, from 0.
        """
        losses: dict[str, Tensor] = {}
        self._optimizer.zero_private_gradients()
        for number, batch in enumerate(batches):
            dropouts = DropoutStream(seed, number)
            outputs = self._model(batch.packed, dropouts)
            minimised = []
            for task, labels in batch.labels.items():
                objective, log_variance = self._objectives[task], self._model.heads[task].log_variance
                loss, logged = objective.loss(
                    outputs[task], labels, examples[task], epoch=epoch, dropouts=dropouts, log_variance=log_variance
                )
                minimised.append(loss)
                losses[task] = losses[task] + logged.detach() if task in losses else logged.detach()
            through_moved = None
            if batch.smoothed is not None:
                scale = self._optimizer.loss_scale
                through_clean, through_moved = self._smoothness(batch.smoothed, outputs, examples, dropouts, scale)
                minimised.append(through_clean)
            # One backward of the sum: each task's own gradient is in its own rows.
            self._backward(minimised)
            if through_moved is not None:
                self._backward([through_moved])
            if not self._deposits_checked and isinstance(batch.packed, PackedBatch):  # the encoder took part
                check_deposits(self._model.shared_parameters())
                self._deposits_checked = True
        losses = {task: losses[task] if task in losses else self._nothing() for task in self._objectives}
        return StepOutput(losses, self._optimizer.step(seed=seed, rate_factor=rate_factor))

    def _nothing(self) -> Tensor:
        """The loss of a task without an example."""
        return torch.zeros((), device=self._device)

    def _backward(self, losses: Sequence[Tensor]) -> None:
        """Of the sum of fp32 scalars, times the loss scale, which is the gradient of each."""
        # One has no graph where a head without parameters reads a frozen encoder.
        losses = [loss for loss in losses if loss.requires_grad]
        if losses:
            torch.autograd.backward(losses, [self._optimizer.loss_scale] * len(losses))
