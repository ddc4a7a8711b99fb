"""Whether steps that are replayed as CUDA graphs compute the same bits as plain ones: python -m bench.captured_steps.

A model is trained twice from the same start, on the same batches of the course data's lengths, three tasks with PCGrad
in mixed precision: with --cuda-graphs off, and with it on. Every loss of every step and all weights in the end must be
the same, and steps must have been captured. Exits with 1 where that is not so.
"""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from bench.lengths import read_lengths, splits_of_lengths
from bench.step_cases import MODELS, Case, Splits, build_trainer
from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import OneLineParser


@dataclass(frozen=True)
class Trained:
    """What steps left: losses [steps, tasks] fp32, the flat parameters by name, and how many graphs."""

    losses: Tensor
    weights: dict[str, Tensor]
    captured: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, compare and say what came of it; 0, or 1 where they differ. InputError for bad flags and without CUDA."""
    parser = OneLineParser(prog="python -m bench.captured_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="MiniLM", help="default MiniLM")
    parser.add_argument("--steps", type=int, default=24, help="default 24")
    parser.add_argument("--batch", type=int, default=32, help="examples a task (default 32)")
    given = parser.parse(arguments)
    for flag in ("steps", "batch"):
        if getattr(given, flag) < 1:
            raise InputError(f"--{flag} {getattr(given, flag)}: expected 1 or more")
    case, splits = Case(given.model, batch=given.batch), splits_of_lengths(read_lengths())
    # Where it cannot be, that comes out at once.
    graphed, plain = (train(case, splits, given.steps, choice) for choice in ("on", "off"))
    lines = differences(plain, graphed)
    what = f"{given.model}: {given.steps} steps, {graphed.captured} graphs"
    print("\n".join(lines) if lines else f"{what}: losses and weights are the same bits with and without")
    return int(bool(lines))


def train(case: Case, splits: Splits, steps: int, cuda_graphs: str) -> Trained:
    """The first `steps` steps of a model; cuda_graphs: as the flag of the same name."""
    trainer = build_trainer(case, splits, "pcgrad", cuda_graphs=cuda_graphs)
    # What a step gives holds until the next one.
    losses = torch.stack([torch.stack(list(own.losses.values())) for own in islice(trainer.epoch(0), steps)])
    flat = {"shared": trainer.model.shared.master, "heads": trainer.model.private.master}
    found = Trained(losses.cpu(), {name: value.cpu() for name, value in flat.items()}, trainer.captured)
    # The model after this one has the device's memory to itself.
    del trainer, flat
    gc.collect()
    return found


def differences(plain: Trained, graphed: Trained) -> list[str]:
    """A line for whatever is not as it should be, the losses first."""
    lines = [] if graphed.captured else ["no step was captured: no shape recurred"]
    if not plain.losses.isfinite().all():
        lines.append("losses are not finite without graphs")
    unequal = (bits(plain.losses) != bits(graphed.losses)).nonzero().tolist()
    if unequal:
        step, task = unequal[0]
        lines.append(
            f"{len(unequal)} of {plain.losses.numel()} losses differ, the first at step {step + 1}, task {task + 1}: "
            f"{plain.losses[step, task]:.9g} without graphs, {graphed.losses[step, task]:.9g} with"
        )
    for name, own in plain.weights.items():
        count = int((bits(own) != bits(graphed.weights[name])).sum())
        if count:
            lines.append(f"{count} of {own.numel()} weights differ in the end: {name}")
    return lines


def bits(values: Tensor) -> Tensor:
    """The bits of fp32 `values` as int32, so that NaN equals itself and 0 is not -0."""
    return values.view(torch.int32)


if __name__ == "__main__":
    sys.exit(run_command(main))
