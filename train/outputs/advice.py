"""What a run's own conflict map says of `--surgery`, in one sentence; docs/surgery.md has the experiment behind it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from concord.bert.errors import one_line
from concord.train.outputs.log import WHOLE_MODEL, task_pairs

# The mean cosine below which gradients pull apart, step for step, more than their noise does.
CONFLICT = -0.05
# Degrees by which PCGrad has to turn the sum of two gradients to be advised: as much as a loss weight of 1.19 turns it
# where they have the same length and are at a right angle.
TURN = 5.0
_LONGEST, _LONGEST_NAME = 400, 60  # characters of the sentence, and of a task's name in it


def pcgrad_turn(cosine: float, ratio: float) -> float:
    """The angle in degrees, in [0, 180], between the plain sum of two gradients and what PCGrad makes of them.

    cosine: of the two, in [-1, 1]; ratio: of their norms, either way, greater than 0. PCGrad multiplies the longer one,
    whose norm is r times the other's, by 1 - cosine / r and the shorter one by 1 - cosine r, where the cosine is
    negative: gradients of the same norm are made longer, and their sum keeps its direction.
    """
    ratio = max(ratio, 1 / ratio)
    if cosine >= 0:
        return 0.0
    across = math.sqrt(max(0.0, 1 - cosine * cosine))
    plain = (ratio + cosine, across)
    of_long, of_short = 1 - cosine / ratio, 1 - cosine * ratio
    mended = (of_long * ratio + of_short * cosine, of_short * across)
    return math.degrees(abs(math.atan2(mended[1], mended[0]) - math.atan2(plain[1], plain[0])))


def pcgrad_turns(entries: Iterable[Mapping[str, Any]], tasks: list[str]) -> dict[str, float | None]:
    """Pair of tasks -> how far PCGrad turns the plain sum of both gradients towards the second task in degrees, below 0
    towards the first, and 0 where they do not conflict: the mean over the logged steps in which both had a gradient
    that is finite, None where there is no such step.

    The mean of the turns is no turn of the means: cosines whose signs change from step to step have a mean near 0 while
    PCGrad acts in every other step; and where now the one gradient is the longer, now the other, turns cancel.

    entries: of metrics.jsonl.
    """
    steps = [entry for entry in entries if entry["event"] == "step"]
    found: dict[str, float | None] = {}
    for name, i, j in task_pairs(tasks):
        turns = []
        for entry in steps:
            first, second = (entry["gradient_norms"].get(tasks[place]) for place in (i, j))
            cosine = entry["cosines"].get(name)
            if cosine is not None and first is not None and second is not None:
                turns.append(math.copysign(pcgrad_turn(cosine, first / second), first - second))
        found[name] = sum(turns) / len(turns) if turns else None
    return found


def surgery_advice(surgery: Mapping[str, Mapping[str, Any]], turns: Mapping[str, float | None], rule: str) -> str:
    """One sentence on whether surgery has something to mend in a run, or had; at most 400 characters.

    surgery: as `train.outputs.summary.surgery_summary` gives it, of a run with whatever rule: its cosines and norms are
    those of the tasks' own gradients; turns: as `pcgrad_turns` gives them; rule: the run's `--surgery`.
    """
    whole = surgery[WHOLE_MODEL]
    if not whole["pairs"]:
        return "there is one task, and nothing that --surgery could mend"
    met = {name: pair for name, pair in whole["pairs"].items() if pair["meeting_steps"]}
    if not met:
        return "no step had gradients of two tasks in the encoder, and nothing that --surgery could mend"
    # The names of a pair's tasks cannot be told from its own where they have hyphens.
    tasks = list(whole["gradient_norms"])
    pairs = {f"{a}-{b}": (a, b) for place, a in enumerate(tasks) for b in tasks[place + 1 :]}
    name = min(met, key=lambda name: met[name]["mean_cosine"])
    turned, turn = max(((name, turns[name] or 0.0) for name in met), key=lambda item: abs(item[1]))
    if abs(turn) >= TURN:
        text = _outvoted(pairs[turned], met[turned], turn, whole["gradient_norms"], rule)
    else:
        text = _not_outvoted(pairs[name], met[name], turns[name] or 0.0, whole["gradient_norms"], rule)
    return one_line(text, _LONGEST)


def _outvoted(
    tasks: tuple[str, str], pair: Mapping[str, Any], turn: float, norms: Mapping[str, float], rule: str
) -> str:
    """The sentence on the pair of tasks whose sum PCGrad turns farthest."""
    loud, quiet = tasks if turn > 0 else tasks[::-1]
    ratio = norms[loud] / norms[quiet]
    first, second, loud, quiet = (one_line(task, _LONGEST_NAME) for task in (*tasks, loud, quiet))
    met = f"{first} and {second} conflict in {pair['share']:.0%} of their steps"
    outvoted = f"{met}, and {loud}'s gradient is {ratio:.1f} times as long as {quiet}'s: PCGrad turns their sum by "
    outvoted += f"{abs(turn):.0f} degrees a step"
    if rule == "none":
        return f"{outvoted}; try --surgery pcgrad, or a larger --loss-weights of {quiet}"
    return f"{outvoted}, which is what --surgery {rule} is for; compare it with none"


def _not_outvoted(
    tasks: tuple[str, str], pair: Mapping[str, Any], turn: float, norms: Mapping[str, float], rule: str
) -> str:
    """The sentence on the pair of tasks with the lowest mean cosine, where PCGrad hardly turns any pair's sum."""
    cosine, share = pair["mean_cosine"], pair["share"]
    long, short = sorted(tasks, key=lambda task: -norms[task])
    ratio = norms[long] / norms[short]
    first, second = (one_line(task, _LONGEST_NAME) for task in tasks)
    met = f"{share:.0%} of their steps (mean cosine {cosine:+.2f})"
    if cosine > CONFLICT:
        end = (
            "has nothing to mend" if rule == "none" else f"{rule} had next to nothing to mend, and none takes less time"
        )
        return f"the tasks hardly conflict, {first} and {second} most, in {met}: --surgery {end}"
    apart = f"{first} and {second} pull apart in {met}"
    mended = "would have little to mend" if rule == "none" else f"{rule} had little to mend"
    turned = f"PCGrad turns the sum of their gradients ({ratio:.1f} to 1) by only {abs(turn):.0f} degrees a step"
    return f"{apart}, but {turned}: --surgery {mended}"
