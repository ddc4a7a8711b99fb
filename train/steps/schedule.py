"""The factor of all learning rates at each step: warm-up, then what --schedule says.

A schedule is (step, Steps) -> factor, and a line in `concord.train.settings.tables`; it is asked after the warm-up.
"""

import math
from dataclasses import dataclass

from concord.bert.errors import InputError
from concord.bert.tables import is_own
from concord.train.settings.own import calling
from concord.train.settings.parts import ScheduleConfig
from concord.train.settings.tables import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a schedule may go by.

    Attributes:
        total: steps of the whole run.
        warmup: steps in which the rates rise, at its beginning.
        per_epoch: steps of an epoch.
        milestones: epochs after which the rates fall.
        decay: what the rates are multiplied by at a milestone.
    """

    total: int
    warmup: int
    per_epoch: int
    milestones: tuple[int, ...]
    decay: float


def linear(step: int, steps: Steps) -> float:
    """Falls linearly and would reach 0 in the step after the last."""
    return (steps.total - step) / max(1, steps.total - steps.warmup)


def constant(step: int, steps: Steps) -> float:
    """Stays at 1."""
    return 1.0


def milestones(step: int, steps: Steps) -> float:
    """The decay to the power of the number of milestones passed."""
    passed = sum(step >= epoch * steps.per_epoch for epoch in steps.milestones)
    return steps.decay**passed


class Schedule:
    """Linear warm-up over a share of the steps, then what the schedule says.

    Args:
        config: the schedule of the run.
        total_steps, steps_per_epoch: of the run.
    """

    def __init__(self, config: ScheduleConfig, *, total_steps: int, steps_per_epoch: int) -> None:
        self._name, self._of_step = config.name, SCHEDULES.resolve(config.name)
        self._steps = Steps(
            total=total_steps,
            warmup=round(total_steps * config.warmup),
            per_epoch=steps_per_epoch,
            milestones=config.milestones,
            decay=config.decay,
        )
        if is_own(self._name):
            for step in range(self._steps.warmup, total_steps):
                self._factor_of_own(step)  # so that what is wrong is said before anything is trained

    def factor(self, step: int) -> float:
        """What the rates are multiplied by at `step`, from 0."""
        if step < self._steps.warmup:
            return (step + 1) / self._steps.warmup
        return self._factor_of_own(step) if is_own(self._name) else self._of_step(step, self._steps)

    def _factor_of_own(self, step: int) -> float:
        with calling(self._name):
            factor = self._of_step(step, self._steps)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise InputError(f"{self._name}: at step {step} it gave {factor!r}, expected a number of at least 0")
        return float(factor)
