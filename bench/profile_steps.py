"""Where the time of a training step goes, by class of op: python -m bench.profile_steps --model BERT-base --out FILE.

Three tasks with PCGrad at the lengths of the course data, in mixed precision on a GPU, are trained on the same steps
over and over: first until each is the replay of a CUDA graph, then once by the clock alone, then under torch's
profiler. Kernels' time is the profiler's; what the clock counts beyond their sum are gaps, in which the device has
nothing to do. Beside each class stands what an H200 was predicted to take (`bench.predicted`). On a CPU torch's
operators are what is profiled, and the time with the profiler is the whole, since it slows them down. The table is
printed, and FILE has each kernel too.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.lengths import read_lengths, splits_of_lengths
from bench.step_cases import MODELS, Case, build_trainer, step_precision
from concord.bert.errors import InputError, one_line
from concord.bert.files import replacing
from concord.kernels.dispatch import describe_kernels
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.outputs.provenance import commit, versions
from concord.train.profiles.events import events_of, summarise_events
from concord.train.profiles.kernel_classes import OTHER
from concord.train.steps.loop import Trainer

ROOT = Path(__file__).resolve().parent.parent
_LAUNCHES = "Launch"  # in the runtime's names of what the host launches: kernels, and graphs of them
_MOST_OTHERS = 3  # kernels of no class that the table names


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile, print the table and write the file. InputError for bad flags."""
    given = _parser().parse(arguments)
    for flag in ("steps", "batch"):
        if getattr(given, flag) < 1:
            raise InputError(f"--{flag} {getattr(given, flag)}: expected 1 or more")
    trainer = build_trainer(
        Case(given.model, batch=given.batch), splits_of_lengths(read_lengths()), "pcgrad", cuda_graphs=given.cuda_graphs
    )
    case = Case(given.model, batch=given.batch).described("course", step_precision().name)
    with ThreadPoolExecutor(1) as beside:
        on_gpu = trainer.device.type == "cuda"
        predicted = beside.submit(predicted_seconds, given.model, case["tasks"]) if on_gpu else None
        measured = measure(trainer, given.steps, given.trace)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "device": step_precision().device_name,
        "computed_by": describe_kernels(trainer.device),
        "case": case,
        "predicted": predicted.result() if predicted else {},
        **measured,
    }
    with replacing(given.out) as beside:
        beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(report)))


def measure(trainer: Trainer, steps: int, trace: Path | None = None) -> dict[str, Any]:
    """What one of the first `steps` steps takes, on average: seconds by the clock, and those of each kernel.

    trace: where the profiler's own file goes, for a viewer. RuntimeError where the profiler has seen nothing.
    """
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    if on_gpu:
        with profile(activities=activities):  # the driver's hooks are set before there are graphs
            torch.cuda.synchronize()
    # A shape is captured when it recurs: at the second pass at the latest.
    for _ in range(2 if on_gpu else 1):
        _run(trainer, steps)
    seconds, tokens = _run(trainer, steps)
    with profile(activities=activities) as profiler:
        profiled_seconds, _ = _run(trainer, steps)
    if trace:
        profiler.export_chrome_trace(str(trace))
    found = events_of(profiler, on_gpu)
    if not found:
        raise RuntimeError(f"the profiler has seen nothing of {steps} steps on {trainer.device}")
    launches = [event.name for event in profiler.events() if event.device_type == DeviceType.CPU]
    return {
        "steps": steps,
        "tokens": tokens / steps,
        "graphs": trainer.captured,
        "seconds": seconds / steps,
        "profiled_seconds": profiled_seconds / steps,
        "host_launches": sum(_LAUNCHES in name for name in launches) / steps if on_gpu else None,
        **summarise_events(found, steps, seconds if on_gpu else profiled_seconds),
    }


def table(report: dict[str, Any]) -> list[str]:
    """The report's lines: what was profiled, a line a class, and the sum."""
    case, whole = report["case"], sum(own["seconds"] for own in report["classes"])
    others = [own for own in report["kernels"] if own["class"] == OTHER]
    predicted = report["predicted"]
    lines = [
        f"{case['model']}, {case['tasks']} tasks, {case['lengths']} lengths, batch {case['batch']}, {case['dtype']}, "
        f"{report['device']}: {report['tokens']:.0f} tokens a step, {report['steps']} steps, {report['graphs']} graphs",
        f"{'class':<26} {'ms a step':>10} {'share':>6} {'launches':>9}" + (f" {'predicted':>10}" if predicted else ""),
    ]
    for own in report["classes"]:
        share = own["seconds"] / whole
        lines.append(
            f"{own['name']:<26} {own['seconds'] * 1e3:>10.3f} {share:>6.1%} {own['launches']:>9.1f}"
            + (f" {predicted.get(own['name'], 0.0) * 1e3:>10.3f}" if predicted else "")
        )
    launches = sum(own["launches"] for own in report["classes"])
    by_host = "" if report["host_launches"] is None else f", {report['host_launches']:.1f} by the host"
    lines.append(
        f"{'all':<26} {whole * 1e3:>10.3f} {1:>6.0%} {launches:>9.1f}  (by the clock {report['seconds'] * 1e3:.3f} ms, "
        f"under the profiler {report['profiled_seconds'] * 1e3:.3f} ms{by_host})"
    )
    for own in others[:_MOST_OTHERS]:
        lines.append(f"  other: {own['seconds'] * 1e3:.3f} ms, {own['launches']:.1f} launches of {own['name'][:80]}")
    return lines


def predicted_seconds(model: str, tasks: int) -> dict[str, float]:
    """Class -> seconds of a step on an H200 as `bench.predicted` has them; nothing where that fails, which is said.

    In a process of its own: counting puts a stand-in where the driver of the GPU is.
    """
    command = [sys.executable, "-m", "bench.predicted", "--json", "--model", model, "--tasks", str(tasks)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"warning: no prediction beside the profile, bench.predicted failed: {one_line(reason)}")
        return {}
    return {own["name"]: own["predicted"] for own in json.loads(done.stdout)}


def _run(trainer: Trainer, steps: int) -> tuple[float, int]:
    """The run's first steps, the same ones at every call: the seconds that they took, and their tokens."""
    _synchronise(trainer)
    began = time.perf_counter()
    tokens = sum(result.tokens for result in islice(trainer.epoch(0), steps))
    _synchronise(trainer)
    return time.perf_counter() - began, tokens


def _synchronise(trainer: Trainer) -> None:
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m bench.profile_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="MiniLM", help="default MiniLM")
    parser.add_argument("--steps", type=int, default=10, help="that are profiled (default 10)")
    parser.add_argument("--batch", type=int, default=32, help="examples a task (default 32)")
    parser.add_argument("--cuda-graphs", choices=("auto", "on", "off"), default="auto", help="default auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the table and of each kernel")
    parser.add_argument("--trace", type=Path, help="file of the profiler's events, for a viewer (.json.gz)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
