"""One training step on one screen: packed batches -> losses -> one backward -> surgery -> optimizer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concord.bert.batch import PackedBatch
from concord.bert.multitask import MultitaskModel, TaskOutput
from concord.kernels.dropout import DropoutStream
from concord.kernels.surgery.plan import SurgeryPlan
from concord.train.data.batches import LabelledBatch
from concord.train.objectives.objectives import Objective
from concord.train.objectives.smart import Smoothness
from concord.train.ranks.gathering import Others
from concord.train.steps.deposits import check_deposits
from concord.train.steps.division import Division
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

    objectives: task -> what is minimised for it, SMART's regulariser where batches have sequences for it; first_stream:
    of the dropouts, which are this rank's own; division: is asked whether the step is a trial.
    """

    def __init__(
        self,
        model: MultitaskModel,
        optimizer: SurgeryOptimizer,
        objectives: Mapping[str, Objective],
        first_stream: int = 0,
        division: Division | None = None,
    ) -> None:
        self._first_stream, self._division = first_stream, division or Division()
        self._model, self._optimizer, self._objectives = model, optimizer, objectives
        self._smoothness = Smoothness(model, objectives)
        self._device = model.shared.compute.device
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
        rate_factor: fp32 scalar, by which the learning rates are multiplied; epoch: fp32 scalar, from 0. DoesNotFit
        where the division makes a trial of the step: nothing is updated then.
        """
        losses = self._division.attempt(lambda: self._accumulate(batches, examples, seed, epoch))
        losses = self._optimizer.add_up(losses)
        return StepOutput(losses, self._optimizer.step(seed=seed, rate_factor=rate_factor))

    def _accumulate(
        self, batches: Iterable[LabelledBatch], examples: Mapping[str, int], seed: Tensor, epoch: Tensor
    ) -> dict[str, Tensor]:
        """Leave the gradients of all batches where the optimizer finds them; each task's loss on this rank."""
        losses: dict[str, Tensor] = {}
        self._optimizer.zero_private_gradients()
        written = False
        for number, batch in enumerate(batches):
            dropouts = DropoutStream(seed, self._first_stream + number)
            outputs = {} if batch.packed is None else self._model(batch.packed, dropouts)
            compared = self._compared(outputs, batch.others)
            minimised = []
            for task, labels in batch.labels.items():
                objective, log_variance = self._objectives[task], self._model.heads[task].log_variance
                loss, logged = objective.loss(
                    compared.get(task, outputs[task]),
                    labels,
                    examples[task],
                    epoch=epoch,
                    dropouts=DropoutStream.of_loss(seed, number, self._model.tasks.index(task)),
                    log_variance=log_variance,
                    whole=batch.others and batch.others.wholes.get(task),
                )
                minimised.append(loss)
                losses[task] = losses[task] + logged.detach() if task in losses else logged.detach()
            if batch.packed is not None:
                self._backward_of(minimised, batch, outputs, examples, dropouts)
                written = True
        if not written:
            self._optimizer.zero_shared_gradients()
        return {task: losses[task] if task in losses else self._nothing() for task in self._objectives}

    def _nothing(self) -> Tensor:
        """The loss of a task without an example."""
        return torch.zeros((), device=self._device)

    def _compared(self, outputs: Mapping[str, TaskOutput], others: Others | None) -> dict[str, TaskOutput]:
        """Task -> the outputs of all ranks, of the tasks whose losses compare a micro-batch's examples."""
        if others is None:
            return {}
        width = self._model.encoder.config.hidden_size
        return {
            task: self._objectives[task].gather(outputs.get(task), whole, width)
            for task, whole in others.wholes.items()
        }

    def _backward_of(
        self,
        minimised: list[Tensor],
        batch: LabelledBatch,
        outputs: Mapping[str, TaskOutput],
        examples: Mapping[str, int],
        dropouts: DropoutStream,
    ) -> None:
        """One backward of the sum of the losses: each task's own gradient is in its own rows."""
        through_moved = None
        if batch.smoothed is not None:
            scale = self._optimizer.loss_scale
            through_clean, through_moved = self._smoothness(batch.smoothed, outputs, examples, dropouts, scale)
            minimised.append(through_clean)
        last = batch.others is not None and batch.others.last and not self._division.trial
        self._backward(minimised, last=last and through_moved is None)
        if through_moved is not None:
            self._backward([through_moved], last=last)
        if not self._deposits_checked and isinstance(batch.packed, PackedBatch):  # the encoder took part
            check_deposits(self._model.shared_parameters())
            self._deposits_checked = True

    def _backward(self, losses: Sequence[Tensor], *, last: bool) -> None:
        """Of the sum of fp32 scalars, times the loss scale, which is the gradient of each; last: of a rank's step."""
        if last:
            self._optimizer.begin_last_backward()
        # One has no graph where a head without parameters reads a frozen encoder.
        losses = [loss for loss in losses if loss.requires_grad]
        if losses:
            torch.autograd.backward(losses, [self._optimizer.loss_scale] * len(losses))
