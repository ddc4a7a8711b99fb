"""How much of a paper's schedule is run: budgets, and a recipe's settings within one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from concord.train.settings.config import RunConfig
from concord.train.settings.options import flag_of, setting_text


@dataclass(frozen=True)
class Budget:
    """How much of a paper's schedule is run.

    Attributes:
        divisor: of the epochs of stages and milestones, each of which stays at least one; 0 for one epoch a stage.
        steps: of the whole run, divided among its epochs. A paper's single epoch of a set is not made longer.
        batch_size: the paper's batch size is cut to this.
        rate: factor of the encoder's learning rate.
        head_rate: factor of the heads' learning rates, which it raises to 1e-3 at most.
        pretraining_steps: of the further pre-training before it; 0 for as many as the paper has.
        more: further settings, name and value.
        kept: whether results are kept in a checkout's docs/papers where nothing else is said.
    """

    divisor: int = 1
    steps: int = 0
    batch_size: int = 0
    rate: float = 1.0
    head_rate: float = 1.0
    pretraining_steps: int = 0
    more: tuple[tuple[str, Any], ...] = ()
    kept: bool = False


# From the smallest to the largest. The encoder's rate of `standard` is what bench.paper_rates found for MiniLM.
BUDGETS = {
    "smoke": Budget(
        divisor=0,
        steps=3,
        batch_size=4,
        pretraining_steps=1,
        more=(("model", "tiny"), ("evaluate_every", 0), ("dev_examples", 24), ("skip_test", True)),
    ),
    "short": Budget(
        divisor=5,
        steps=120,
        batch_size=16,
        rate=10.0,
        head_rate=100.0,
        pretraining_steps=25,
        more=(("evaluate_every", 0), ("dev_examples", 600), ("skip_test", True)),
    ),
    "standard": Budget(
        divisor=5,
        steps=1500,
        batch_size=16,
        rate=5.0,
        head_rate=100.0,
        pretraining_steps=300,
        more=(("amp", "auto"), ("evaluate_every", 750), ("dev_examples", 0), ("skip_test", True)),
        kept=True,
    ),
    "full": Budget(kept=True),
}
_HIGHEST_HEAD_RATE = 1e-3


def budgeted(settings: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    """A recipe's settings within a budget."""
    if budget == BUDGETS["full"]:
        return dict(settings)
    config = RunConfig(**settings)
    found = {**settings, **dict(budget.more)}

    def shortened(epochs: int) -> int:
        return max(1, round(epochs / budget.divisor)) if budget.divisor else 1

    stages = config.parsed_stages()
    found["epochs"] = sum(shortened(stage.epochs) for stage in stages)
    if len(stages) > 1:
        found["stages"] = tuple(f"{stage.trains}:{shortened(stage.epochs)}" for stage in stages)
    found["milestones"] = tuple(dict.fromkeys(str(shortened(epoch)) for epoch in config.milestone_epochs()))
    if config.epochs == 1 and not config.steps_per_epoch:
        found["max_steps"] = budget.steps
    else:
        found["steps_per_epoch"] = max(1, budget.steps // found["epochs"])
    found["batch_size"] = min(config.batch_size, budget.batch_size)
    if config.learning_rate > 0:
        found["learning_rate"] = config.learning_rate * budget.rate
    found["head_learning_rate"] = tuple(_multiplied(item, budget.head_rate) for item in config.head_learning_rate)
    return found


def _multiplied(item: str, factor: float) -> str:
    task, equals, value = item.rpartition("=")
    rate = float(value)
    return f"{task}{equals}{max(rate, min(rate * factor, _HIGHEST_HEAD_RATE)):g}"


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    arguments = []
    for name, value in settings.items():
        if isinstance(value, bool):
            arguments += [flag_of(name)] * value
        else:
            arguments += [flag_of(name), setting_text(value)]
    return arguments
