"""What is ahead of a fine-tuning run, counted before its first step."""

from concord.train.data.datasets import Datasets
from concord.train.reporter import Plan
from concord.train.settings.parts import OutputConfig
from concord.train.steps.loop import Trainer


def plan_of(trainer: Trainer, outputs: OutputConfig, data: Datasets, done: int) -> Plan:
    """The plan of a run that has `done` steps behind it, unless it ends early."""
    total, spread = trainer.total_steps, trainer.sampler.steps_per_epoch
    every = outputs.evaluate_every or total + 1
    # An epoch's end is evaluated once, whether or not it is a multiple of --evaluate-every.
    ends = sum(1 for end in {*range(spread, total, spread), total} if end > done and end % every)
    dev, test = (sum(map(len, sets.values())) for sets in (data.dev, data.test))
    return Plan(spread, total, done, ends + total // every - done // every, dev, test)
