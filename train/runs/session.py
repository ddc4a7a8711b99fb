"""The life of a run in its folder: begun or gone on with, logged, saved, stopped, and summed up at its end."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.kernels.checks.shapes import Shapes
from concord.kernels.dispatch import chosen_kernels, set_kernels
from concord.train.checks.self_check import resolve_kernels
from concord.train.outputs.checkpoint import Progress, load_state, save_state
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.log import MetricsLog
from concord.train.outputs.names import STATE_FILE, SUMMARY_FILE
from concord.train.outputs.provenance import commit, versions
from concord.train.outputs.stopping import StopRequest, stop_on_signal
from concord.train.reporter import Reporter
from concord.train.settings.parts import ComputeConfig
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision


class Session:
    """What fine-tuning and pre-training have in common. Nothing is read or written before `open`.

    Args:
        folder: where the run begins or goes on.
        reporter: is told what the run does.
        precision: its device and number format.

    Attributes:
        directory: of the run; progress: how far it has come; log: its metrics.jsonl; kernels: what its ops take, in
            words; stop: whether the run has been asked to stop.
    """

    def __init__(self, folder: RunFolder, reporter: Reporter, precision: Precision) -> None:
        self.folder, self.reporter, self.precision = folder, reporter, precision
        self.directory, self.progress, self.kernels = folder.path, Progress(), ""
        self.stop = StopRequest(reporter)
        self._began, self._earlier_seconds = time.perf_counter(), 0.0

    def resolve_kernels(self, compute: ComputeConfig, shapes: Callable[[], Shapes]) -> None:
        """Have the kernels checked on the device, and say which are taken; see `train.checks.self_check`."""
        self.kernels = resolve_kernels(compute.kernels, compute.self_check, self.precision, shapes, self.reporter)
        self.reporter.say(f"kernels    {self.kernels}")

    def open(
        self,
        optimizer: SurgeryOptimizer,
        digests: Mapping[str, str],
        settings: Mapping[str, Callable[[Path], None]],
    ) -> None:
        """Go on from the state that is saved, or claim the folder of a new run and write its settings.

        optimizer: whose state is saved; digests: of the data that the run reads, by name; settings: the name of a file
        -> what writes it. InputError as `load_state` and `RunFolder.claim` raise it; KeyboardInterrupt where nobody
        reads any more what the run says, before it has left anything.
        """
        if self.stop.made:
            raise KeyboardInterrupt
        self._optimizer, self._digests = optimizer, digests
        if self.folder.resumed:
            self.progress = load_state(self.directory, optimizer, digests)
            self._take_kernels_of_state()
        else:
            self.directory = self.folder.claim()
            for name, write in settings.items():
                with replacing(self.directory / name) as beside:
                    write(beside)
        self.progress.kernels = chosen_kernels()
        self._earlier_seconds = self.progress.seconds
        self.log = MetricsLog(self.directory, keep=self.progress.log_bytes)

    def _take_kernels_of_state(self) -> None:
        """Go on with what computed the state's steps; InputError where those are native kernels and there are none."""
        before, now = self.progress.kernels, chosen_kernels()
        if (before, now) == ("native", "torch"):
            raise InputError(
                f"{self.directory / STATE_FILE}: its steps were computed by native kernels, which cannot be had here "
                f"({self.kernels}); the rest would not be the same run"
            )
        if (before, now) == ("torch", "native"):
            set_kernels("torch")
            self.kernels = "torch (reference expressions, as the steps of the saved state)"
            self.reporter.say(f"kernels    {self.kernels}")

    @contextmanager
    def training(self, total_steps: int) -> Iterator[None]:
        """Within this context signals ask for a stop; where steps are left at its end, KeyboardInterrupt says so."""
        with stop_on_signal(self.stop):
            yield
        if self.progress.steps < total_steps:
            self.log.close()
            self.reporter.say(f"stopped    after step {self.progress.steps}; go on with: --resume {self.directory}")
            raise KeyboardInterrupt

    def save(self) -> None:
        """Write the state that --resume goes on from."""
        self._count_seconds()
        self.progress.log_bytes = self.log.length
        save_state(self.directory, self._optimizer, self.progress, self._digests)

    def write_summary(self, before: Mapping[str, Any], unit: str, after: Mapping[str, Any]) -> dict[str, Any]:
        """Write summary.json: `before`, what every run tells of itself, and `after`; return its content.

        unit: what examples are called here.
        """
        self._count_seconds()
        progress, seconds = self.progress, max(self.progress.training_seconds, 1e-9)
        summary = {
            **before,
            "steps": progress.steps,
            "skipped_steps": int(self._optimizer.state.skipped_steps.item()),
            "seconds": progress.seconds,
            "training_seconds": progress.training_seconds,
            f"{unit}_per_second": progress.examples / seconds,
            "tokens_per_second": progress.tokens / seconds,
            "device": self.precision.device_name,
            "precision": self.precision.name,
            "kernels": self.kernels,
            **after,
            "versions": versions(),
            "commit": commit(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with replacing(self.directory / SUMMARY_FILE) as beside:
            beside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return summary

    def _count_seconds(self) -> None:
        self.progress.seconds = self._earlier_seconds + time.perf_counter() - self._began
