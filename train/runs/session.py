"""The life of a run in its folder: begun or gone on with, logged, saved, stopped, and summed up at its end."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.kernels.checks.shapes import Shapes
from concord.kernels.dispatch import chosen_kernels, set_kernels
from concord.kernels.products import chosen_products, onednn_missing, set_products
from concord.train.checks.products import resolve_products
from concord.train.checks.self_check import resolve_kernels
from concord.train.outputs.checkpoint import (
    Progress,
    SavedState,
    copy_to_host,
    keep_alone,
    read_state,
    restore,
    seal,
    write_state,
)
from concord.train.outputs.folders import RunFolder, note_launch, remove, sweep_run
from concord.train.outputs.log import MetricsLog
from concord.train.outputs.names import LAUNCH_FILE, METRICS_FILE, STATE_FILE, SUMMARY_FILE
from concord.train.outputs.provenance import commit, differences, machine, versions
from concord.train.outputs.stopping import AgreedStop, StopRequest, stop_on_signal
from concord.train.outputs.strict_json import json_text
from concord.train.ranks.group import Ranks
from concord.train.reporter import Reporter
from concord.train.settings.parts import ComputeConfig
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision


class Session:
    """What fine-tuning and pre-training have in common. Nothing is written before `open`.

    The lock of a folder in which a run goes on is held from the beginning, and InputError where another process has it.

    Args:
        folder: where the run begins or goes on.
        reporter: is told what the run does.
        precision: its device and number format.
        ranks: of the run, of which this is the first; None for a process that is alone.
        launch: the name of what has launched the ranks, which is noted in the folder; "" for none.

    Attributes:
        directory: of the run; progress: how far it has come; log: its metrics.jsonl.
        kernels: what its ops take, in words.
        products: what multiplies fp32 matrices, in words; empty where that is no question.
        stop: whether the run has been asked to stop.
        settings: metadata that seals its settings' files, see `train.outputs.checkpoint.seal`.
        bit_equal: whether it is to end with the bits of an uninterrupted run.
    """

    def __init__(
        self,
        folder: RunFolder,
        reporter: Reporter,
        precision: Precision,
        ranks: Ranks | None = None,
        launch: str = "",
    ) -> None:
        self.folder, self.reporter, self.precision, self.ranks = folder, reporter, precision, ranks
        self._launch = launch
        self.directory, self.progress = folder.path, Progress()
        self.stop = AgreedStop(ranks, reporter) if ranks else StopRequest(reporter)
        self.kernels = self.products = ""
        self.settings: dict[str, str] = {}
        self.bit_equal = True
        self._began, self._earlier_seconds = time.perf_counter(), 0.0
        self._thread, self._saving = ThreadPoolExecutor(1), Future()
        self._saving.set_result(None)
        if folder.resumed:  # its state is read, and its digest checked, while the model and the data are
            self.log = MetricsLog(folder.path)
            self._state = self._thread.submit(read_state, folder.path)
        self._copies: dict[str, Tensor] = {}

    @property
    def leads(self) -> bool:
        """Whether this process writes what the run leaves."""
        return self.ranks is None or self.ranks.leads

    def resolve_kernels(self, compute: ComputeConfig, shapes: Callable[[], Shapes]) -> None:
        """Have the kernels checked on the device, and say what is taken; see `train.checks.self_check` and, of fp32
        products on a CPU, `train.checks.products`."""
        self.kernels = resolve_kernels(compute.kernels, compute.self_check, self.precision, shapes, self.reporter)
        self.reporter.say(f"kernels    {self.kernels}")
        self.products = resolve_products(compute.products, self.precision)
        if self.products:
            self.reporter.say(f"products   {self.products}")

    def open(
        self,
        optimizer: SurgeryOptimizer,
        digests: Mapping[str, str],
        settings: Mapping[str, Callable[[Path], None]],
        total_steps: int,
    ) -> None:
        """Go on from the state that is saved, or claim the folder of a new run and write its settings; and hold the
        folder's lock, so that what killed processes left there can be swept.

        optimizer: whose state is saved; digests: of the data that the run reads, by name; settings: the name of a file
        -> what writes it; total_steps: of the run. InputError as `read_state`, `restore` and `RunFolder.claim` raise
        it, and where the state is another run's or another machine's, see `_check_machine`; KeyboardInterrupt where
        nobody reads any more what the run says, before it has left anything.
        """
        if self.stop.made:
            raise KeyboardInterrupt
        self._optimizer, self._digests = optimizer, dict(digests)
        if self.ranks:
            self.ranks.tell(lambda: self._digests)
        if not self.folder.resumed:
            self.directory = self.folder.claim()
            self.log = MetricsLog(self.directory)
        try:
            sweep_run(self.directory)
            if self._launch:
                note_launch(self.directory, self._launch)
            if self.folder.resumed:
                self._go_on(total_steps)
            else:
                self._begin(settings)
        except BaseException:
            self.log.close()
            raise
        self.settings = seal(self.directory, settings)
        self.progress.kernels, self.progress.products = chosen_kernels(), chosen_products()
        self._earlier_seconds = self.progress.seconds
        if self.ranks:
            self.ranks.tell(lambda: (self.directory, chosen_kernels(), chosen_products(), self.bit_equal))

    def share_progress(self) -> None:
        """Have all ranks know how far the run has come."""
        if self.ranks:
            self.progress = self.ranks.tell(lambda: self.progress)

    def _begin(self, settings: Mapping[str, Callable[[Path], None]]) -> None:
        if self.folder.anew:
            # The settings are replaced one by one: killed meanwhile, the run can be begun anew once more.
            # What launched it stays, too: by that its processes find the folder again after another restart.
            kept = {*settings, METRICS_FILE, *([LAUNCH_FILE] if self._launch else [])}
            remove(self.directory, set(self.folder.anew) - kept)
            self.reporter.say("resumed    as a new run: it was killed before its first saved state")
        self.log.cut(0, self.reporter)
        for name, write in settings.items():
            with replacing(self.directory / name) as beside:
                write(beside)

    def _go_on(self, total_steps: int) -> None:
        state = self._state.result()
        if state.progress.steps > total_steps:
            raise InputError(f"{state.path}: {state.progress.steps} steps, more than the {total_steps} of this run")
        self._check_machine(state)
        restore(state, self._optimizer, self._digests)
        self.progress = state.progress
        self._take_kernels_of_state()
        self._take_products_of_state()
        if state.missed:
            self.reporter.warn(f"{state.missed}; going on from the state before it, after step {state.progress.steps}")
        keep_alone(self.directory, state)
        self.log.cut(self.progress.log_bytes, self.reporter)

    @cached_property
    def _machine(self) -> dict[str, str]:
        return machine(self.precision)

    def _check_machine(self, state: SavedState) -> None:
        """Say in what this machine differs from that of the saved state; InputError where the number format would
        change and nobody has asked for it."""
        before, now = state.machine.get("precision"), self.precision.name
        if before != now and not self.folder.precision_given:
            raise InputError(
                f"{state.path}: its steps were computed in {before}, and the rest would be in {now} "
                f"({self.precision.reason}); give --amp {before if before in ('bf16', 'fp16') else 'off'} to go on as "
                f"before, or --amp {now if now != 'fp32' else 'off'} to change"
            )
        found = differences(state.machine, self._machine)
        self.bit_equal = not found
        if found:
            self.reporter.warn(
                f"the result will not be bit-equal to that of an uninterrupted run, since here {', '.join(found)}"
            )

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

    def _take_products_of_state(self) -> None:
        """Go on with the library that multiplied in the state's steps; InputError where it cannot be had."""
        before = self.progress.products
        if before in ("", chosen_products()):
            return
        if before == "onednn" and (missing := onednn_missing()):
            raise InputError(
                f"{self.directory / STATE_FILE}: its steps' products are oneDNN's, which cannot be had here "
                f"({missing}); the rest would not be the same run"
            )
        set_products(before)
        self.products = f"{'oneDNN' if before == 'onednn' else before}, as in the steps of the saved state"
        self.reporter.say(f"products   {self.products}")

    @contextmanager
    def training(self, is_over: Callable[[], bool]) -> Iterator[None]:
        """Within this context signals ask for a stop; where the run is not over at its end, KeyboardInterrupt says
        so."""
        try:
            with stop_on_signal(self.stop):
                yield
        except BaseException:
            self.reporter.close()
            raise
        if not is_over():
            self.close()
            self.reporter.say(f"stopped    after step {self.progress.steps}; go on with: --resume {self.directory}")
            raise KeyboardInterrupt

    def save(self) -> None:
        """Save the state that --resume goes on from: it is copied at once, and written while the run goes on.

        The log's entries up to here are on the disk before. OSError where the state saved before could not be written.
        """
        self._count_seconds()
        self.progress.log_bytes = self.log.sync()
        self.wait()
        copy_to_host(self._optimizer, self._copies)
        progress = deepcopy(self.progress)
        state = SavedState(self.directory / STATE_FILE, self._copies, progress, self._digests, self._machine)
        self._saving = self._thread.submit(write_state, self.directory, state, self.settings)

    def wait(self) -> None:
        """Wait until the disk has the state that was saved last: before anything is written that only a finished run
        has. OSError where it could not be written."""
        self._saving.result()

    def close(self) -> None:
        """Wait for the state that was saved last, and give the folder to other processes."""
        try:
            self.wait()
        finally:
            self.log.close()
            self.reporter.close()

    def write_summary(self, before: Mapping[str, Any], unit: str, after: Mapping[str, Any]) -> dict[str, Any]:
        """Write summary.json: `before`, what every run tells of itself, and `after`; return its content. In the file
        null stands for numbers that are not finite.

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
            "products": self.products,
            **after,
            "versions": versions(),
            "commit": commit(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with replacing(self.directory / SUMMARY_FILE) as beside:
            beside.write_text(json_text(summary, indent=2) + "\n", encoding="utf-8")
        return summary

    def _count_seconds(self) -> None:
        self.progress.seconds = self._earlier_seconds + time.perf_counter() - self._began
