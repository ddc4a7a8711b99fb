"""The steps of further pre-training: which texts, masks, seed and rates each gets, and the held-out score."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concord.bert.language_model import TASK, MaskedLanguageModel
from concord.bert.tokenizer import Tokenizer
from concord.kernels.dropout import DropoutStream
from concord.kernels.surgery.plan import SurgeryPlan
from concord.train.data.masking import MaskedTokens, mask_sequences
from concord.train.settings.parts import AdamWConfig, StepConfig
from concord.train.steps.deposits import check_deposits
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision
from concord.train.steps.schedule import Schedule
from concord.train.steps.weightings import pretraining_settings

_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.05, 2000
_EVALUATED_AT_ONCE = 32  # texts
# What random numbers are for: each purpose has generators of its own, so that a resumed run draws the same.
_SPLIT, _ORDER, _MASKS, _HELD_OUT_MASKS, _STEP = range(5)


@dataclass(frozen=True)
class PretrainingStep:
    """What one step did; tensors are on the device, and reading them waits.

    Attributes:
        step: steps done so far, this one included.
        epoch: from 0.
        loss: fp32 scalar, the mean over the masked wordpieces.
        plan: what the optimizer did.
        learning_rate: of the encoder in this step.
        texts: how many the step read.
        tokens: how many the step read.
        masked: how many wordpieces were masked in the step.
    """

    step: int
    epoch: int
    loss: Tensor
    plan: SurgeryPlan
    learning_rate: float
    texts: int
    tokens: int
    masked: int

    def entry(self) -> dict[str, Any]:
        """The step as it stands in metrics.jsonl; waits for the numbers."""
        return {
            "event": "step",
            "step": self.step,
            "epoch": self.epoch,
            "loss": self.loss.item(),
            "gradient_norm": self.plan.merged_norm.item(),
            "applied": bool(self.plan.apply.item()),
            "learning_rate": self.learning_rate,
            "tokens": self.tokens,
            "masked": self.masked,
        }


class Pretrainer:
    """Steps of further pre-training; what a step does depends on its number and the weights' state alone.

    Args:
        model: on the precision's device.
        tokenizer: the model's.
        texts: int32 [tokens] each, with their special tokens; a part of them is held out.
        precision: of the run.
        batches: what a step reads, and how many steps there are.
        optimizer: its settings, of which the learning rate is the encoder's.
        head_rate: peak learning rate of the head.
    """

    def __init__(
        self,
        model: MaskedLanguageModel,
        tokenizer: Tokenizer,
        texts: Sequence[np.ndarray],
        precision: Precision,
        *,
        batches: StepConfig,
        optimizer: AdamWConfig,
        head_rate: float,
    ) -> None:
        self.model, self._tokenizer, self._device = model, tokenizer, precision.device
        self._batches, self._rate = batches, optimizer.learning_rate
        self._deposits_checked = False
        held_out = max(1, min(_MOST_HELD_OUT, round(len(texts) * _HELD_OUT_SHARE)))
        order = self._random(_SPLIT).permutation(len(texts))
        self.held_out = [texts[index] for index in order[:held_out]]
        self.texts = [texts[index] for index in order[held_out:]]
        self.steps_per_epoch = -(-len(self.texts) // (batches.batch_size * batches.accumulate))
        self.total_steps = batches.total_steps(self.steps_per_epoch)
        self._schedule = Schedule(
            optimizer.schedule, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        self.optimizer = SurgeryOptimizer(
            model.shared,
            model.private,
            [TASK],
            settings=pretraining_settings(optimizer, scaling=precision.scaling),
            shared_rates=optimizer.learning_rate,
            private_rates=head_rate,
        )

    def steps(self, start: int) -> Iterator[PretrainingStep]:
        """Train from step `start` of the run to its end."""
        for index in range(start, self.total_steps):
            yield self._step(index)

    def micro_batches(self, index: int) -> list[MaskedTokens]:
        """The masked texts of step `index` (from 0): in an order, and with masks, that every epoch draws anew."""
        epoch, place = divmod(index, self.steps_per_epoch)
        size, accumulate = self._batches.batch_size, self._batches.accumulate
        order = self._random(_ORDER, epoch).permutation(len(self.texts))
        chosen = order[place * size * accumulate :][: size * accumulate]
        random = self._random(_MASKS, index)
        return [
            mask_sequences([self.texts[text] for text in chosen[first : first + size]], self._tokenizer, random)
            for first in range(0, len(chosen), size)
        ]

    def _step(self, index: int) -> PretrainingStep:
        micro_batches = self.micro_batches(index)
        masked = sum(len(batch.positions) for batch in micro_batches)
        seed = torch.tensor(self._random(_STEP, index).integers(1 << 63)).to(self._device)
        loss = torch.zeros((), device=self._device)
        self.optimizer.zero_private_gradients()
        for number, batch in enumerate(micro_batches):
            inputs = batch.to_device(self._device, accumulate=number > 0)
            # The model's loss is a mean: weighted by their shares of the masked wordpieces, the micro-batches' losses
            # add up to the mean of one large batch.
            part = self.model(*inputs, DropoutStream(seed, number)) * (len(batch.positions) / max(1, masked))
            (part * self.optimizer.loss_scale).backward()
            if not self._deposits_checked:
                check_deposits(dict(self.model.encoder.named_parameters()))
                self._deposits_checked = True
            loss += part.detach()
        factor = self._schedule.factor(index)
        plan = self.optimizer.step(seed=seed, rate_factor=torch.tensor(factor).to(self._device))
        return PretrainingStep(
            index + 1,
            index // self.steps_per_epoch,
            loss,
            plan,
            self._rate * factor,
            sum(len(batch.lengths) for batch in micro_batches),
            sum(len(batch.ids) for batch in micro_batches),
            masked,
        )

    def evaluate(self) -> dict[str, float]:
        """Loss, perplexity and share of masked wordpieces that are named right, on the held-out texts, whose masks
        never change; nan where no wordpiece of them is masked."""
        random = self._random(_HELD_OUT_MASKS)
        total, right, masked = 0.0, 0, 0
        for first in range(0, len(self.held_out), _EVALUATED_AT_ONCE):
            batch = mask_sequences(self.held_out[first : first + _EVALUATED_AT_ONCE], self._tokenizer, random)
            loss, correct = self.model.score(*batch.to_device(self._device))
            total, right, masked = total + loss.item(), right + int(correct.item()), masked + len(batch.positions)
        count = masked or math.nan  # without masked wordpieces every mean is NaN
        mean = total / count
        # Where exp would overflow a double, the perplexity counts as infinite.
        perplexity = math.inf if mean >= 700 else math.exp(mean)
        return {"loss": mean, "perplexity": perplexity, "accuracy": right / count, "masked": masked}

    def _random(self, purpose: int, number: int = 0) -> np.random.Generator:
        return np.random.default_rng((self._batches.seed, purpose, number))
