"""The training loop: which examples, seed and rates each step gets, and where its batches are gathered."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from concord.bert.multitask import SHARED_LAYER, MultitaskModel
from concord.kernels.dispatch import needs_host_lengths
from concord.kernels.surgery.plan import SurgeryPlan
from concord.train.data.batches import LabelledBatch, gather, whole_step
from concord.train.data.batching import build_sampler
from concord.train.data.device_batches import DeviceBatches
from concord.train.data.parts import Parts
from concord.train.data.sampler import MicroBatch
from concord.train.data.tokenized import TokenizedSplit
from concord.train.objectives.objectives import Objective
from concord.train.ranks.gathering import Others
from concord.train.ranks.group import Ranks, first_stream
from concord.train.reporter import SILENT, Reporter
from concord.train.settings.parts import BatchConfig, OptimizerConfig
from concord.train.steps.division import Division, DoesNotFit
from concord.train.steps.frozen import FrozenBatches, KeptOutputs
from concord.train.steps.graphs import DeviceSteps
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.schedule import Schedule
from concord.train.steps.step import StepOutput, TrainingStep


@dataclass(frozen=True)
class StepResult:
    """What one step did. Numbers that came from the device are still there until the next step: reading them waits.

    Attributes:
        step: steps done so far in the run, this one included.
        epoch: from 0.
        losses: task -> fp32 scalar, the mean over the step's examples.
        present: the tasks that it held.
        plan: what surgery and optimizer did.
        learning_rate: of the encoder in this step.
        examples: how many the step read.
        tokens: how many the step read.
    """

    step: int
    epoch: int
    losses: dict[str, Tensor]
    present: frozenset[str]
    plan: SurgeryPlan
    learning_rate: float
    examples: int
    tokens: int


class Trainer:
    """Steps of training; what a step does depends on its number and the state of model and optimizer alone.

    The torch references take batches that the host has packed; the kernels take those of the device, and with `graphs`
    whole steps as CUDA graphs.

    Args:
        model, optimizer: whose state the steps change.
        objectives: task -> what is minimised for it.
        splits: task -> its training set.
        device: of all of it.
        batches: what a step reads, how many steps there are, and what each epoch trains.
        rates: the learning rates over the run, and the span of averaged weights.
        graphs, fall_back: whether steps are captured, and whether they go on without graphs where a capture fails.
        reporter: is told where that happens, and where a frozen encoder runs.
        ranks: of the run, each of which computes its part of every batch; None for a process that is alone.

    Attributes:
        division: of each step's batches into micro-batches.
        kept: for evaluations while the encoder is frozen, which then need not run it again; None while it is trained.
    """

    def __init__(
        self,
        model: MultitaskModel,
        optimizer: SurgeryOptimizer,
        objectives: Mapping[str, Objective],
        splits: Mapping[str, TokenizedSplit],
        device: torch.device,
        *,
        batches: BatchConfig,
        rates: OptimizerConfig,
        graphs: bool = False,
        fall_back: bool = True,
        reporter: Reporter = SILENT,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.optimizer, self.splits, self.device = model, optimizer, splits, device
        self._reporter = reporter
        self._seed, self._rate, self._trained = batches.seed, rates.learning_rate, batches.trained
        self._stage = "all"
        self._frozen: FrozenBatches | None = None
        self.kept: KeptOutputs | None = None
        self.sampler = build_sampler(batches, {task: len(split) for task, split in splits.items()})
        steps_per_epoch = self.sampler.steps_per_epoch
        self.total_steps = batches.total_steps(steps_per_epoch)
        self._schedule = Schedule(rates.schedule, total_steps=self.total_steps, steps_per_epoch=steps_per_epoch)
        average_steps = round(self.total_steps * rates.average)
        if average_steps:
            optimizer.keep_average(average_steps)
        compared = [task for task, objective in objectives.items() if objective.compares]
        self._ranks = ranks
        self._parts = ranks and Parts(ranks, splits, compared, device)
        self.division = Division(batches.micro_batch, batches.fitted, ranks, reporter)
        self._step = TrainingStep(model, optimizer, objectives, first_stream(ranks, batches.accumulate), self.division)
        self._smoothed = [task for task, objective in objectives.items() if objective.smoothness]
        self._device_steps: DeviceSteps | None = None
        if not needs_host_lengths(device) and not model.needs_host_lengths:
            self._device_steps = DeviceSteps(
                self._step,
                DeviceBatches(splits, device, smoothed=self._smoothed),
                list(splits),
                device,
                graphs=graphs,
                fall_back=fall_back,
                reporter=reporter,
            )

    @property
    def captured(self) -> int:
        """How many CUDA graphs the steps so far have left."""
        return self._device_steps.captured if self._device_steps else 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[StepResult]:
        """Train the steps of `epoch` (from 0), from step `start` of it, to its end or the run's last step."""
        self._enter(epoch)
        first = epoch * self.sampler.steps_per_epoch
        for index, batches in enumerate(self.sampler.epoch(epoch, start), first + start):
            if index >= self.total_steps:
                return
            factor = self._schedule.factor(index)
            counts = {task: sum(len(batch[task]) for batch in batches) for task in self.splits}
            output = self._run(batches, counts, self._seed_of(index), factor, epoch)
            self.optimizer.average(index + 1)
            yield StepResult(
                step=index + 1,
                epoch=epoch,
                losses=output.losses,
                present=frozenset(task for task, count in counts.items() if count),
                plan=output.plan,
                learning_rate=self._rate * factor,
                examples=sum(counts.values()),
                tokens=sum(map(self._tokens_of, batches)),
            )

    def _enter(self, epoch: int) -> None:
        """Freeze the encoder where the heads alone are trained, run before over what they read, or let it go again."""
        stage = self._trained[epoch]
        if stage == self._stage:
            return
        self._frozen = self.kept = None
        if stage == "heads":
            examples = self._examples_of_stage(epoch)
            count = sum(len(own) * self.splits[task].sequences_per_example for task, own in examples.items())
            self._reporter.say(f"frozen     the encoder runs once over the {count} sequences that the heads will read")
            with self._reporter.reading("frozen encoder", sum(map(len, examples.values()))):
                self._frozen = FrozenBatches(
                    self.model, self.splits, examples, self.device, self._reporter, self._ranks
                )
            self.kept = KeptOutputs()
        encoder = {name for name in self.model.shared.block_names if not name.startswith(SHARED_LAYER)}
        self.optimizer.freeze(encoder if stage == "heads" else ())
        self._stage = stage

    def _examples_of_stage(self, epoch: int) -> dict[str, np.ndarray]:
        """Which examples of each set are read while what `epoch` trains is trained: int64 indices, rising.

        They are those of the whole stage, wherever in it a resumed run begins, so that it computes the same.
        """
        trained, first, last = self._trained, epoch, epoch + 1
        while first and trained[first - 1] == trained[epoch]:
            first -= 1
        while last < len(trained) and trained[last] == trained[epoch]:
            last += 1
        read = {task: np.zeros(len(split), dtype=bool) for task, split in self.splits.items()}
        steps = (step for number in range(first, last) for step in self.sampler.epoch(number))
        for micro_batches in islice(steps, self.total_steps - first * self.sampler.steps_per_epoch):
            for micro_batch in micro_batches:
                for task, examples in micro_batch.items():
                    read[task][examples] = True
        return {task: np.flatnonzero(mask) for task, mask in read.items()}

    def _run(
        self, batches: Sequence[MicroBatch], examples: Mapping[str, int], seed: int, rate_factor: float, epoch: int
    ) -> StepOutput:
        """One step of `batches`, which are divided further until they fit, where that is asked for."""
        while True:
            try:
                return self._compute(self.division.divide(batches), examples, seed, rate_factor, epoch)
            except DoesNotFit as error:
                reason = str(error)
            # What was computed is let go of with the error. A table may have got rows that no flag tells of.
            self.optimizer.zero_shared_gradients()
            if self._device_steps is not None:
                self._device_steps.forget()
            self.division.divide_further(batches, reason)

    def _compute(
        self,
        micro_batches: Sequence[MicroBatch],
        examples: Mapping[str, int],
        seed: int,
        rate_factor: float,
        epoch: int,
    ) -> StepOutput:
        parts = self._parts.of_step(micro_batches) if self._parts else None
        if self.division.fitted:
            self.division.begin(0 if self._frozen else self._most_tokens(micro_batches, parts))
        if self._device_steps is not None and self._frozen is None:
            numbers = {"seed": seed, "rate_factor": rate_factor, "epoch": epoch}
            if parts is not None:
                return self._device_steps.run_part(parts, examples, **numbers)
            return self._device_steps.run(micro_batches, **numbers)
        return self._step(
            whole_step(parts or [(own, None) for own in micro_batches], self._gather),
            examples,
            seed=torch.tensor(seed).to(self.device),
            rate_factor=torch.tensor(rate_factor).to(self.device),
            epoch=torch.tensor(float(epoch)).to(self.device),
        )

    def _most_tokens(
        self, micro_batches: Sequence[MicroBatch], parts: Sequence[tuple[MicroBatch, Others]] | None
    ) -> int:
        """Of the largest micro-batch, on the rank that has the most of it."""
        if parts is None:
            return max(map(self._tokens_of, micro_batches))
        return max(others.tokens for _, others in parts)

    def _tokens_of(self, batch: MicroBatch) -> int:
        return sum(self.splits[task].tokens_of(own) for task, own in batch.items())

    def _gather(self, micro_batch: MicroBatch, accumulate: bool) -> LabelledBatch:
        if self._frozen:
            return self._frozen.gather(micro_batch, accumulate=accumulate)
        return gather(self.splits, micro_batch, self.device, accumulate=accumulate, smoothed=self._smoothed)

    def _seed_of(self, step: int) -> int:
        """A 63-bit seed for one step of this run: of its dropouts and of surgery's random orders."""
        digest = hashlib.blake2b(f"{self._seed} {step}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1
