"""What summary.json and the terminal tell of a run's scores, epochs and surgery."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concord.train.data.tasks import Task
from concord.train.objectives.metrics import main_metric
from concord.train.outputs.log import WHOLE_MODEL, task_pairs
from concord.train.outputs.names import METRICS_FILE
from concord.train.steps.optimizer import SurgeryOptimizer


def epoch_summary(directory: Path) -> list[dict[str, Any]]:
    """Of each epoch, from metrics.jsonl: steps, seconds of training, and in how many of its steps which pair of tasks
    conflicted."""
    entries = (json.loads(line) for line in (directory / METRICS_FILE).read_text(encoding="utf-8").splitlines())
    last = {entry["epoch"]: entry for entry in entries if entry["event"] == "step"}
    found, steps, seconds = [], 0, 0.0
    conflicts: dict[str, int] = {}
    for epoch, entry in sorted(last.items()):
        now = {pair: count for pair, (count, *_) in entry["conflicts"][WHOLE_MODEL].items()}
        found.append(
            {
                "epoch": epoch,
                "steps": entry["step"] - steps,
                "seconds": round(entry["seconds"] - seconds, 3),
                "conflicts": {pair: count - conflicts.get(pair, 0) for pair, count in now.items()},
            }
        )
        steps, seconds, conflicts = entry["step"], entry["seconds"], now
    return found


def surgery_summary(optimizer: SurgeryOptimizer, tasks: list[str]) -> dict[str, dict[str, Any]]:
    """What surgery met and did in each block of parameters and in the whole model. Reads the device.

    Of each pair of tasks: the steps in which both had a gradient, those of them whose gradients conflicted, their share
    and the mean cosine, None where the two never met; of each task: the mean norm of its gradient in the steps in which
    it had one, or None; and by how much surgery changed the plain sum (or mean), as a share of its norm, on average
    over all steps.
    """
    state = optimizer.state
    steps = max(1, int(state.applied_steps.item()))
    met, counts, sums = (sums.tolist() for sums in (state.meetings, state.conflicts, state.cosines))
    norms, changes = state.norms.tolist(), state.changes.tolist()
    return {
        block: {
            "pairs": {
                name: {
                    "meeting_steps": int(met[b][i][j]),
                    "conflicting_steps": int(counts[b][i][j]),
                    "share": _mean(counts[b][i][j], met[b][i][j]),
                    "mean_cosine": _mean(sums[b][i][j], met[b][i][j]),
                }
                for name, i, j in task_pairs(tasks)
            },
            "gradient_norms": {task: _mean(norms[b][i], met[b][i][i]) for i, task in enumerate(tasks)},
            "change": changes[b] / steps,
        }
        for b, block in enumerate((*optimizer.shared.block_names, WHOLE_MODEL))
    }


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def dev_sum(metrics: Mapping[str, Mapping[str, float]], tasks: list[Task]) -> float:
    """What the best checkpoint is chosen by: the sum of the tasks' main metrics."""
    return sum(metrics[task.name][main_metric(task)] for task in tasks)


def score_line(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics of every task on one line."""
    return "  ".join(
        f"{task} " + " ".join(f"{name} {value:.3f}" for name, value in values.items())
        for task, values in metrics.items()
    )
