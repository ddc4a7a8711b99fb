"""Commands run in stages, within one limit for all: what takes too long is cut off, and costs no other stage its time.

Phases follow each other; in a phase lanes run side by side, and in a lane stages one after the other. A phase, and a
stage of a lane, may take its share of the time that is left, so that what one does not need the later ones get. Each
command has a process group of its own, which ends with it.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PASSED, FAILED, CUT_OFF, LEFT_OUT = "passed", "failed", "cut off", "left out"
SECONDS = "{seconds}"  # in a command: the time that it has for itself, short of its limit
_SHORT_OF = 6.0  # so that a command that knows its time can still tell what it has done
_LEAST = 1.0  # seconds under which nothing is begun
_GRACE = 2.0  # seconds after SIGTERM, and after SIGKILL
_MOST_FALLBACKS = 3  # lines of one log
_MOST_READ = 4 << 20  # bytes of either end of a log
# What a run says where it computes in another way than it was meant to.
FALLBACK = re.compile(
    r"its check failed here|no CUDA graphs from here on|the kernels are not checked"
    r"|^kernels\s.*\bunchecked\b(?! as asked)|^kernels\s+torch\b|^graphs\s+off"
)

Digest = Callable[[str], list[str]]
"""A log -> what of it the summary shows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A command.

    name: of its log and in the summary; seconds: that it may take, in proportion to those of the lane's other stages;
    at_most: seconds that it may take in any case; required: whether the call fails where it does; shown: whether the
    summary has it; watched: whether a line of its log that tells of a fallback fails the call; environment: variables
    of its own; lacks: why it cannot be run here, "" where it can.
    """

    name: str
    command: Sequence[str]
    seconds: float
    digest: Digest
    at_most: float = float("inf")
    required: bool = True
    shown: bool = True
    watched: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    lacks: str = ""


Lane = Sequence[Stage]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Lanes side by side; seconds: that they may take, in proportion to those of the other phases."""

    seconds: float
    lanes: Sequence[Lane]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a stage.

    how: passed, failed, cut off or left out; why: in words, of what failed; seconds, limit: that it took, and might
    have; lines: for the summary; fallbacks: lines of the log.
    """

    stage: Stage
    how: str
    why: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    lines: Sequence[str] = ()
    fallbacks: Sequence[str] = ()

    @property
    def at_fault(self) -> bool:
        """Whether the call fails by it."""
        return bool(self.fallbacks) or (self.stage.required and self.how == FAILED)


class Call:
    """Runs phases until `deadline`, on the clock of `time.monotonic`.

    Args:
        deadline: after which nothing runs any more, but for the seconds that ending it takes.
        folder: where the commands run.
        logs: folder of their output, a file each.
        on_outcome: is told of each as it comes, from several threads, one at a time.
    """

    def __init__(self, deadline: float, folder: Path, logs: Path, on_outcome: Callable[[Outcome], None]) -> None:
        self._deadline, self._folder, self._logs, self._on_outcome = deadline, folder, logs, on_outcome
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Cut off what runs, and begin nothing more."""
        self._stopped.set()

    def run(self, phases: Sequence[Phase]) -> None:
        """Run them."""
        for index, phase in enumerate(phases):
            later = sum(own.seconds for own in phases[index:])
            now = time.monotonic()
            end = now + max(0.0, self._deadline - now) * phase.seconds / later
            threads = [threading.Thread(target=self._run_lane, args=(lane, end)) for lane in phase.lanes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _run_lane(self, lane: Lane, end: float) -> None:
        for index, stage in enumerate(lane):
            later = sum(own.seconds for own in lane[index:])
            limit = min(stage.at_most, (end - time.monotonic()) * stage.seconds / later)
            outcome = self._run_stage(stage, limit)
            with self._lock:
                self._on_outcome(outcome)

    def _run_stage(self, stage: Stage, limit: float) -> Outcome:
        if stage.lacks:
            return Outcome(stage=stage, how=LEFT_OUT, why=stage.lacks)
        if limit < _LEAST or self._stopped.is_set():
            return Outcome(stage=stage, how=LEFT_OUT, why="the time is over")
        began, path = time.monotonic(), self._logs / f"{stage.name}.log"
        command = [part.replace(SECONDS, f"{max(1.0, limit - _SHORT_OF):.0f}") for part in stage.command]
        with path.open("wb") as log:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env={**os.environ, **stage.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            except OSError as error:
                return Outcome(stage=stage, how=FAILED, why=f"{command[0]}: {error.strerror}")
            ended = self._wait(process, began + limit)
            gone = end_group(process)
        text = read_ends(path)
        how, why = CUT_OFF, "" if gone else "its process cannot be ended"
        if ended:
            how, why = (PASSED, "") if process.returncode == 0 else (FAILED, describe_code(process.returncode))
        lines = [line.strip() for line in text.splitlines() if stage.watched and FALLBACK.search(line)]
        return Outcome(
            stage=stage,
            how=how,
            why=why,
            seconds=time.monotonic() - began,
            limit=limit,
            lines=digested(stage, text),
            fallbacks=list(dict.fromkeys(lines))[:_MOST_FALLBACKS],
        )

    def _wait(self, process: subprocess.Popen[bytes], end: float) -> bool:
        """Whether the process has ended by itself in time."""
        while time.monotonic() < end and not self._stopped.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(0.2, max(0.0, end - time.monotonic())))
                return True
        return process.poll() is not None


def end_group(process: subprocess.Popen[bytes]) -> bool:
    """End a process and whatever else is in its group; whether it is gone: a driver may hold it for ever."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
    # Its own children outlive it where it did not end them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.poll() is not None


def digested(stage: Stage, log: str) -> list[str]:
    """What the summary shows of a log; a digest that fails costs its own lines alone."""
    try:
        return stage.digest(log)
    except Exception as error:  # whatever a log may hold
        return [f"its log is not understood: {type(error).__name__}: {error}"]


def read_ends(path: Path) -> str:
    """A log as text, without its middle where it is long."""
    with path.open("rb") as file:
        content = file.read(_MOST_READ)
        rest = path.stat().st_size - len(content)
        if rest > _MOST_READ:
            file.seek(-_MOST_READ, os.SEEK_END)
            content += b"\n[...]\n"
        content += file.read(_MOST_READ)
    return content.decode("utf-8", errors="replace")


def describe_code(code: int) -> str:
    """An exit code in words, which for a negative one is the signal's name."""
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name
