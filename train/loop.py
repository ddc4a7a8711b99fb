"""The training loop: examples -> packed batch -> losses -> one backward -> surgery -> optimizer step."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bert.multitask import MultitaskModel
from kernels import DropoutStream, SurgeryPlan
from train.batches import gather
from train.config import RunConfig
from train.losses import task_loss
from train.optimizer import SurgeryOptimizer
from train.sampler import JointSampler, MicroBatch
from train.tokenized import TokenizedSplit


@dataclass(frozen=True)
class StepResult:
    """What one step did. Numbers that came from the device are still there: reading them waits for it.

    step: steps done so far in the run, this one included; epoch: from 0; losses: task -> fp32 scalar, the mean over the
    step's examples; plan: what surgery and optimizer did; learning_rate: the encoder's; examples, tokens: of this step
    alone.
    """

    step: int
    epoch: int
    losses: dict[str, Tensor]
    plan: SurgeryPlan
    learning_rate: float
    examples: int
    tokens: int


class Trainer:
    """Steps of training; what a step does depends on its number and the state of model and optimizer alone."""

    def __init__(
        self,
        config: RunConfig,
        model: MultitaskModel,
        optimizer: SurgeryOptimizer,
        splits: Mapping[str, TokenizedSplit],
        device: torch.device,
    ) -> None:
        self.config, self.model, self.optimizer, self.splits, self.device = config, model, optimizer, splits, device
        self.sampler = JointSampler(
            {task: len(split) for task, split in splits.items()},
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            seed=config.seed,
        )
        self.total_steps = config.epochs * self.sampler.steps_per_epoch
        if config.max_steps:
            self.total_steps = min(self.total_steps, config.max_steps)
        average_steps = round(self.total_steps * config.average)
        if average_steps:
            optimizer.keep_average(average_steps)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[StepResult]:
        """Train the steps of `epoch` (from 0), from step `start` of it, to its end or the run's last step."""
        first = epoch * self.sampler.steps_per_epoch
        for index, micro_batches in enumerate(self.sampler.epoch(epoch, start), first + start):
            if index >= self.total_steps:
                return
            seed = torch.tensor(self._seed_of(index)).to(self.device, non_blocking=True)
            factor = self._schedule(index)
            losses, tokens = self._backward(seed, micro_batches)
            plan = self.optimizer.step(seed=seed, rate_factor=torch.tensor(factor).to(self.device, non_blocking=True))
            self.optimizer.average(index + 1)
            examples = sum(len(indices) for batch in micro_batches for indices in batch.values())
            rate = self.config.learning_rate * factor
            yield StepResult(index + 1, epoch, losses, plan, rate, examples, tokens)

    def _backward(self, seed: Tensor, micro_batches: list[MicroBatch]) -> tuple[dict[str, Tensor], int]:
        """Fill the task gradients with those of the step's examples; each task's mean loss, and the tokens read."""
        examples = {task: sum(len(batch[task]) for batch in micro_batches) for task in self.splits}
        losses = {task: torch.zeros((), device=self.device) for task in self.splits}
        tokens = 0
        self.optimizer.zero_private_gradients()
        for number, micro_batch in enumerate(micro_batches):
            batch = gather(self.splits, micro_batch, self.device, accumulate=number > 0)
            logits = self.model(batch.packed, DropoutStream(seed, number))
            parts = {
                task: task_loss(self.splits[task].task, logits[task], labels, examples[task])
                for task, labels in batch.labels.items()
            }
            # One backward of the sum: each task's own gradient is in its own rows.
            (torch.stack(list(parts.values())).sum() * self.optimizer.loss_scale).backward()
            for task, part in parts.items():
                losses[task] += part.detach()
            tokens += batch.packed.sequences.tokens
        return losses, tokens

    def _schedule(self, step: int) -> float:
        """The learning rates' factor at `step` (from 0): linear warm-up, then linear decay to 0 at the run's end."""
        warmup = round(self.total_steps * self.config.warmup)
        if step < warmup:
            return (step + 1) / warmup
        return (self.total_steps - step) / max(1, self.total_steps - warmup)

    def _seed_of(self, step: int) -> int:
        """A 63-bit seed for one step of this run: of its dropouts and of surgery's random orders."""
        digest = hashlib.blake2b(f"{self.config.seed} {step}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1
