"""What a run leaves behind in numbers: metrics.jsonl while it runs, summary.json at its end."""

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.kernels.surgery.rules import cosines
from concord.train.data.tasks import Task
from concord.train.objectives.metrics import main_metric, overall
from concord.train.outputs.checkpoint import Progress
from concord.train.steps.loop import StepResult
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision

METRICS_FILE, SUMMARY_FILE = "metrics.jsonl", "summary.json"
WHOLE_MODEL = "model"  # beside the blocks of parameters
_PACKAGES = ("torch", "triton", "numpy", "tokenizers", "safetensors")


class MetricsLog:
    """Appends one JSON object a line to metrics.jsonl, which no other process may write meanwhile.

    Args:
        directory: of the run.
        keep: bytes to keep of an earlier part of the run; what follows them is cut off. InputError where there are not
            as many, or another process writes the log.
    """

    def __init__(self, directory: Path, keep: int = 0) -> None:
        self._path = directory / METRICS_FILE
        found = self._path.stat().st_size if self._path.exists() else 0
        if found < keep:
            raise InputError(
                f"{self._path}: {found} bytes, expected at least the {keep} that were there when the run was saved"
            )
        self._file = self._path.open("a+b")
        if not _locked(self._file):
            raise InputError(f"{self._path}: another process is writing it, expected a run that has stopped")
        self._file.truncate(keep)
        # Truncation leaves the position where it was, and `length` would count what has been cut off.
        self._file.seek(keep)

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry and hand it to the system at once; OSError that names the file where it cannot."""
        self._file.write(json.dumps(entry, allow_nan=True).encode() + b"\n")
        try:
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _locked(file: IO[bytes]) -> bool:
    """Whether the file is this process's until it closes it or ends, as it is where the file system knows no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


class LoggedStep:
    """The numbers of one step on their way from the device, which goes on meanwhile.

    Args:
        result: of the step that was run last.
        optimizer: which ran it.
        seconds: that the run has trained so far.
    """

    def __init__(self, result: StepResult, optimizer: SurgeryOptimizer, seconds: float) -> None:
        self._result, self._blocks, self._seconds = result, optimizer.shared.block_names, seconds
        plan, state = result.plan, optimizer.state
        tensors = {f"loss {task}": loss for task, loss in result.losses.items()}
        tensors |= {"gram": plan.gram, "cosines": cosines(plan.gram), "merged_norm": plan.merged_norm}
        tensors |= {"applied": plan.apply, "applied_steps": state.applied_steps, "loss_scale": state.loss_scale}
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
        and two tasks have a cosine where both have a gradient: none where the heads alone are trained.

        conflicts: sums over the steps applied so far, of each block of parameters and pair of tasks: how often the
        gradients conflicted, their cosines, and how often there were both; two entries' difference is what happened
        between them.
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
            "cosines": {name: found["cosines"][i][j] for name, i, j in pairs if norms[tasks[i]] and norms[tasks[j]]},
            "applied": bool(found["applied"]),
            "applied_steps": int(found["applied_steps"]),
            "conflicts": {
                block: {name: [int(counts[b][i][j]), sums[b][i][j], int(met[b][i][j])] for name, i, j in pairs}
                for b, block in enumerate((*self._blocks, WHOLE_MODEL))
            },
            "loss_scale": found["loss_scale"],
            "learning_rate": result.learning_rate,
            "examples": result.examples,
            "tokens": result.tokens,
            "seconds": round(self._seconds, 3),
        }


def task_pairs(tasks: list[str]) -> list[tuple[str, int, int]]:
    """Each pair of tasks: its name, and the two tasks' places."""
    return [(f"{tasks[i]}-{tasks[j]}", i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]


def conflict_shares(entry: Mapping[str, Any]) -> dict[str, float]:
    """For each pair of tasks that met before a logged step, the share of those steps in which they conflicted."""
    return {pair: count / met for pair, (count, _, met) in entry["conflicts"][WHOLE_MODEL].items() if met}


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


def write_summary(
    directory: Path,
    *,
    tasks: list[Task],
    progress: Progress,
    optimizer: SurgeryOptimizer,
    precision: Precision,
    kernels: str,
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """Write summary.json and return its content."""
    overall_score, mean = overall(progress.best_dev, tasks)
    summary = {
        "dev": progress.best_dev,
        "overall": overall_score,
        "mean": mean,
        "thresholds": dict(thresholds),
        "best_step": progress.best_step,
        "steps": progress.steps,
        "skipped_steps": int(optimizer.state.skipped_steps.item()),
        "seconds": progress.seconds,
        "training_seconds": progress.training_seconds,
        "examples_per_second": progress.examples / max(progress.training_seconds, 1e-9),
        "tokens_per_second": progress.tokens / max(progress.training_seconds, 1e-9),
        "device": precision.device_name,
        "precision": precision.name,
        "kernels": kernels,
        "epochs": epoch_summary(directory),
        "surgery": surgery_summary(optimizer, [task.name for task in tasks]),
        "versions": versions(),
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = directory / SUMMARY_FILE
    with replacing(path) as beside:
        beside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def dev_sum(metrics: Mapping[str, Mapping[str, float]], tasks: list[Task]) -> float:
    """What the best checkpoint is chosen by: the sum of the tasks' main metrics."""
    return sum(metrics[task.name][main_metric(task)] for task in tasks)


def score_line(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics of every task on one line."""
    return "  ".join(
        f"{task} " + " ".join(f"{name} {value:.3f}" for name, value in values.items())
        for task, values in metrics.items()
    )


def versions() -> dict[str, str]:
    """Python's version and those of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str | None:
    """The commit of the source, with "+changes" where files differ from it.

    Outside a checkout, what CONCORD_COMMIT says: who copies the source without its history may tell. Otherwise None.
    """
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("CONCORD_COMMIT")
