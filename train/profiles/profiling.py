"""Some steps of a run under torch's profiler: a table by class of op, and a trace for a viewer."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from concord.bert.files import replacing
from concord.kernels.measure import Limits, measure_limits
from concord.train.outputs.names import PROFILE_FILE, TRACE_FILE
from concord.train.profiles.events import events_of, summarise_events
from concord.train.profiles.rows import profile_lines
from concord.train.profiles.work import with_work, work_of
from concord.train.reporter import ForwardingReporter, Reporter

SKIPPED = 5  # first steps of the process, in which kernels are compiled and graphs captured
_MOST_KERNELS = 60


class ProfilingReporter(ForwardingReporter):
    """Profiles steps of the run that it is told of, and says where their time went; the run's numbers stay the same.

    The profile begins after the first steps of the process, and ends after `steps` of them, or before where an
    evaluation or the end of the run comes first.

    Args:
        reporter: that it passes on to.
        steps: that are profiled.
    """

    def __init__(self, reporter: Reporter, steps: int) -> None:
        super().__init__(reporter)
        self._steps, self._count, self._first = steps, 0, SKIPPED
        self._profiler: profile | None = None
        self._over = False

    def open_run(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        """Keep where the files go, and what computes."""
        super().open_run(directory, settings, step)
        self._directory = directory
        self._device = torch.device("cuda" if settings["device"] != "cpu" and torch.cuda.is_available() else "cpu")

    def advance(self) -> None:
        """Begin or end the profile where it is time."""
        super().advance()
        self._count += 1
        if self._profiler is not None and self._count - self._first >= self._steps:
            self._end()
        elif self._profiler is None and not self._over and self._count >= SKIPPED:
            self._begin()

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """End the profile before anything else than steps is done."""
        self._end()
        with super().reading(what, total):
            yield

    def close(self) -> None:
        """End the profile with the run, and warn where there is none."""
        self._end()
        if self._count and not self._over:
            self.warn(
                f"--profile {self._steps}: no step was profiled, since one begins after {SKIPPED} steps of a process "
                "and ends with the next evaluation"
            )
        super().close()

    def _begin(self) -> None:
        self._first = self._count
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        self._profiler = profile(activities=activities, record_shapes=True)
        self._synchronise()
        self._profiler.start()
        self._began = time.perf_counter()

    def _end(self) -> None:
        """End the profile, write its files and say the table; nothing where there is none under way."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        steps = self._count - self._first
        self._over = steps > 0  # else it begins again with the next step
        self._synchronise()
        seconds = time.perf_counter() - self._began
        profiler.stop()
        if not steps:
            return
        with replacing(self._directory / TRACE_FILE) as beside:
            whole = beside.with_name(f"{beside.name}.gz")  # by whose end torch knows that it is to be packed
            profiler.export_chrome_trace(str(whole))
            whole.replace(beside)
        report = self._report(profiler, steps, seconds)
        with replacing(self._directory / PROFILE_FILE) as beside:
            beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for line in profile_lines(report):
            self.say(line)

    def _report(self, profiler: profile, steps: int, seconds: float) -> dict[str, Any]:
        summary = summarise_events(events_of(profiler, self._device.type == "cuda"), steps, seconds)
        limits = self._limits()
        return {
            "steps": steps,
            "first_step_of_process": self._first + 1,
            "seconds": seconds / steps,
            "copy_limit": limits.copy if limits else None,
            "product_limits": limits.products if limits else {},
            "classes": with_work(summary["classes"], work_of(profiler.events()), steps, limits),
            "kernels": summary["kernels"][:_MOST_KERNELS],
        }

    def _limits(self) -> Limits | None:
        """What the device reaches; None, with a word, where there is no memory to measure it in."""
        try:
            with torch.random.fork_rng():  # so that what the run draws is not changed
                return measure_limits(self._device)
        except RuntimeError as error:
            self.warn(f"--profile: the device's limits cannot be measured beside the run ({error})")
            return None

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
