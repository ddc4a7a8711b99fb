"""The factor of all learning rates at each step: warm-up, then what --schedule says."""

from concord.train.settings.config import RunConfig


class Schedule:
    """Linear warm-up over a share of the steps, then a linear fall to 0, a constant rate, or one that is multiplied by
    --decay after each of --milestones (epochs).

    Args:
        config: of the run.
        total_steps, steps_per_epoch: of the run.
    """

    def __init__(self, config: RunConfig, *, total_steps: int, steps_per_epoch: int) -> None:
        self._config, self._total, self._steps_per_epoch = config, total_steps, steps_per_epoch
        self._warmup = round(total_steps * config.warmup)

    def factor(self, step: int) -> float:
        """What the rates are multiplied by at `step`, from 0."""
        config = self._config
        if step < self._warmup:
            return (step + 1) / self._warmup
        if config.schedule == "linear":
            return (self._total - step) / max(1, self._total - self._warmup)
        passed = sum(step >= epoch * self._steps_per_epoch for epoch in config.milestone_epochs)
        return config.decay**passed
