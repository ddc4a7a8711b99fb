"""What summary.json and the terminal tell of a run's scores, epochs and surgery."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from concord.train.data.tasks import Task
from concord.train.objectives.metrics import main_scores
from concord.train.outputs.log import WHOLE_MODEL, task_pairs
from concord.train.settings.values import MEAN
from concord.train.steps.optimizer import SurgeryOptimizer


def epoch_summary(entries: Iterable[Mapping[str, Any]], steps_per_epoch: int, total_steps: int) -> list[dict[str, Any]]:
    """Of each epoch, from the entries of metrics.jsonl: steps, seconds of training, and in how many of its steps which
    pair of tasks conflicted. An epoch is left out where the entry of its last step, or of the last one before it, is
    missing."""
    ends = {entry["step"]: entry for entry in entries if entry["event"] == "step"}
    found = []
    for epoch in range(-(-total_steps // steps_per_epoch)):
        first, last = epoch * steps_per_epoch, min((epoch + 1) * steps_per_epoch, total_steps)
        if last not in ends or (first and first not in ends):
            continue
        seconds, conflicts = ends[first]["seconds"] if first else 0.0, _conflicts(ends[first]) if first else {}
        found.append(
            {
                "epoch": epoch,
                "steps": last - first,
                "seconds": round(ends[last]["seconds"] - seconds, 3),
                "conflicts": {pair: n - conflicts.get(pair, 0) for pair, n in _conflicts(ends[last]).items()},
            }
        )
    return found


def _conflicts(entry: Mapping[str, Any]) -> dict[str, int]:
    """Pair of tasks -> in how many steps so far it conflicted."""
    return {pair: count for pair, (count, *_) in entry["conflicts"][WHOLE_MODEL].items()}


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


def dev_sum(metrics: Mapping[str, Mapping[str, float | None]], tasks: list[Task]) -> float:
    """What the best checkpoint is chosen by where that is no single metric: the sum of the tasks' main metrics, where
    an undefined one counts as 0."""
    return sum(main_scores(metrics, tasks).values())


def score_of(
    metrics: Mapping[str, Mapping[str, float | None]], tasks: list[Task], best_metric: tuple[str, str] | None
) -> float:
    """What the best model is chosen by; NaN where any task's answers are not finite: such a model is broken."""
    if any(value is not None and math.isnan(value) for own in metrics.values() for value in own.values()):
        return math.nan
    if best_metric is None:
        return dev_sum(metrics, tasks)
    task, name = best_metric
    return metrics[task][name] or 0.0  # None counts as 0, too


def best_metric_text(best_metric: tuple[str, str] | None) -> str:
    """What the best checkpoint is chosen by, as --best-metric takes it."""
    return ".".join(best_metric) if best_metric else MEAN


def is_void(metrics: Mapping[str, Mapping[str, float | None]]) -> bool:
    """Whether some task of an evaluation in a log has no metric at all: its answers were not finite. One metric alone
    may be undefined on a set."""
    return any(all(value is None for value in row.values()) for row in metrics.values())


def score_line(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    """The metrics of every task on one line."""
    return "  ".join(
        f"{task} "
        + " ".join(f"{name} {'undefined' if value is None else f'{value:.3f}'}" for name, value in values.items())
        for task, values in metrics.items()
    )
