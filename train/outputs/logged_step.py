"""The entry of one step in metrics.jsonl, whose numbers come from the device while that goes on."""

import math
from typing import Any

import torch

from concord.kernels.surgery.rules import cosines
from concord.train.outputs.log import WHOLE_MODEL, task_pairs
from concord.train.steps.loop import StepResult
from concord.train.steps.optimizer import SurgeryOptimizer


class LoggedStep:
    """The numbers of one step on their way from the device, which goes on meanwhile.

    Args:
        result: of the step that was run last.
        optimizer: which ran it.
        examples, seconds: that the run has trained so far.
    """

    def __init__(self, result: StepResult, optimizer: SurgeryOptimizer, examples: int, seconds: float) -> None:
        self._result, self._blocks = result, optimizer.shared.block_names
        self._so_far = {"trained_examples": examples, "seconds": round(seconds, 3)}
        plan, state = result.plan, optimizer.state
        tensors = {f"loss {task}": loss for task, loss in result.losses.items()}
        tensors |= {"gram": plan.gram, "cosines": cosines(plan.gram), "merged_norm": plan.merged_norm}
        tensors |= {"applied": plan.apply, "applied_steps": state.applied_steps, "loss_scale": state.loss_scale}
        tensors |= {"skipped_in_row": state.skipped_in_row}
        tensors |= {"meetings": state.meetings, "conflict_counts": state.conflicts, "cosine_sums": state.cosines}
        self._shapes = {name: tensor.shape for name, tensor in tensors.items()}
        # One copy of them all, since the next step may overwrite each; fp64 holds counts exactly.
        values = torch.cat([tensor.flatten().double() for tensor in tensors.values()])
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._values = values

    def ready(self) -> bool:
        """Whether the numbers have arrived."""
        return self._copied is None or self._copied.query()

    def entry(self) -> dict[str, Any]:
        """The step as it stands in metrics.jsonl; waits for the numbers. Tasks that the step did not hold have none,
        and two tasks have a cosine where both have a gradient: none where the heads alone are trained. It is NaN where
        a norm is not finite.

        conflicts: sums over the steps applied so far, of each block of parameters and pair of tasks: how often the
        gradients conflicted, their cosines, and how often there were both; two entries' difference is what happened
        between them. skipped_in_row: see `kernels.surgery.plan.SurgeryState`.
        """
        if self._copied is not None:
            self._copied.synchronize()
        result, tasks, present = self._result, list(self._result.losses), self._result.present
        parts = self._values.split([shape.numel() for shape in self._shapes.values()])
        found = {
            name: part.view(shape).tolist() for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        met, counts, sums = found["meetings"], found["conflict_counts"], found["cosine_sums"]
        pairs = task_pairs(tasks)
        norms = {task: math.sqrt(found["gram"][i][i]) for i, task in enumerate(tasks)}
        return {
            "event": "step",
            "step": result.step,
            "epoch": result.epoch,
            "losses": {task: found[f"loss {task}"] for task in tasks if task in present},
            "gradient_norms": {task: norm for task, norm in norms.items() if task in present},
            "merged_norm": found["merged_norm"],
            "cosines": {
                name: found["cosines"][i][j] if math.isfinite(norms[tasks[i]] + norms[tasks[j]]) else math.nan
                for name, i, j in pairs
                if norms[tasks[i]] and norms[tasks[j]]
            },
            "applied": bool(found["applied"]),
            "applied_steps": int(found["applied_steps"]),
            "skipped_in_row": [int(number) for number in found["skipped_in_row"]],
            "conflicts": {
                block: {name: [int(counts[b][i][j]), sums[b][i][j], int(met[b][i][j])] for name, i, j in pairs}
                for b, block in enumerate((*self._blocks, WHOLE_MODEL))
            },
            "loss_scale": found["loss_scale"],
            "learning_rate": result.learning_rate,
            "examples": result.examples,
            "tokens": result.tokens,
            **self._so_far,
        }
