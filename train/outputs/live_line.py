"""How a run stands, on one line of a terminal: the widest layout that fits; and how long the rest will take."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from concord.train.reporter import Plan

_GAP = "  "
_SHORT = 4  # characters of a task's name where there is little room
# A forward pass alone takes about a third of the time of a training step.
_EVALUATION_SHARE = 1 / 3


@dataclass
class Standing:
    """How a run stands.

    Attributes:
        epoch: from 1; epochs: of the run; step: done in this epoch; steps: of this epoch.
        seconds_left: of the run's training, None as long as nobody knows.
        losses: task -> loss of the last logged step; speed: examples a second up to it, None before the first.
        conflicts: pair of tasks -> share of the steps in which they conflicted.
        scores: dev scores as text; reading: what is read at the moment, in place of the numbers, "" for nothing.
    """

    epoch: int = 1
    epochs: int = 1
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    speed: float | None = None
    conflicts: Mapping[str, float] = field(default_factory=dict)
    scores: str = ""
    reading: str = ""


def live_line(now: Standing, width: int) -> str:
    """The line, of at most `width` characters. Step and time left come first; losses, examples a second, conflicts and
    dev scores follow as far as there is room, in shorter words where there is little."""
    for layout in _layouts(now):
        line = _GAP.join(filter(None, layout))
        if len(line) <= width:
            return line
    return line[: max(0, width - 1)] + "\u2026" * (width > 0)


def _layouts(now: Standing) -> Iterator[tuple[str, ...]]:
    """The parts of the line, from the most words to the fewest."""
    heads = (
        f"epoch {now.epoch}/{now.epochs}  step {now.step}/{now.steps}",
        f"epoch {now.epoch}/{now.epochs} {now.step}/{now.steps}",
        f"{now.epoch}/{now.epochs} {now.step}/{now.steps}",
    )
    left = ("", "") if now.seconds_left is None else (f"{clock(now.seconds_left)} left", clock(now.seconds_left))
    if now.reading:
        yield from ((heads[0], left[0], now.reading), (heads[1], left[1], now.reading), (heads[2], now.reading))
        yield (now.reading,)
        return
    losses = _losses(now.losses)
    speeds = ("", "") if now.speed is None else (f"{now.speed:.0f} examples/s", f"{now.speed:.0f}/s")
    pairs = " ".join(f"{pair} {share:.0%}" for pair, share in now.conflicts.items())
    conflicts = (f"conflicts {pairs or '-'}", f"conflicts {_mean(now.conflicts):.0%}") if now.losses else ("", "")
    yield heads[0], left[0], losses[0], speeds[0], conflicts[0], now.scores
    yield heads[0], left[0], losses[0], speeds[0], conflicts[0]
    for head in heads[:2]:
        yield head, left[0], losses[0], speeds[0], conflicts[1]
        yield head, left[0], losses[1], speeds[0], conflicts[1]
        yield head, left[0], losses[0], speeds[0]
        yield head, left[0], losses[1], speeds[0]
    for own in losses[2:]:
        yield heads[1], left[0], own, speeds[0], conflicts[1]
        yield heads[1], left[0], own, speeds[0]
        yield heads[1], left[1], own, speeds[1]
        yield heads[2], left[1], own, speeds[1]
    yield heads[2], left[1], losses[3]
    yield heads[2], left[1]
    yield (heads[2],)


def _losses(losses: Mapping[str, float]) -> tuple[str, str, str, str]:
    """The losses in four lengths; the last one is their mean."""
    if not losses:
        return "", "", "", ""
    return (
        "loss " + " ".join(f"{task} {loss:.3f}" for task, loss in losses.items()),
        " ".join(f"{task} {loss:.2f}" for task, loss in losses.items()),
        " ".join(f"{task[:_SHORT]} {loss:.2f}" for task, loss in losses.items()),
        f"loss {_mean(losses):.2f}",
    )


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / max(1, len(values))


def clock(seconds: float) -> str:
    """A stretch of time as 0:05, 12:30 or 3:05:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plan_text(plan: Plan) -> str:
    """What is ahead of a run, in numbers that are known before its first step."""
    epochs = -(-plan.total_steps // plan.steps_per_epoch)
    parts = [f"{plan.total_steps - plan.done} of {plan.total_steps} steps in {epochs} epochs"]
    if plan.done == 0:
        parts = [f"{plan.total_steps} steps in {epochs} epochs"]
    parts.append(f"{plan.evaluations} evaluations of {plan.dev_examples} dev examples")
    if plan.test_examples:
        parts.append(f"{plan.test_examples} test examples at the end")
    return ", ".join(parts)


def time_text(plan: Plan, steps: int, examples: int, speed: float) -> str:
    """What will take how long, once a step has been timed.

    steps: that are left; examples: of a step; speed: examples a second in training.
    """
    training = steps * examples / speed
    asked = (plan.evaluations * plan.dev_examples + plan.test_examples) / speed * _EVALUATION_SHARE
    return (
        f"about {clock(training + asked)}: {clock(training)} for {steps} steps of {examples} examples, and "
        f"{clock(asked)} for evaluations and answers, if they are three times as fast"
    )
