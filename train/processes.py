"""Runs of train.run as processes, some of them side by side, each with its share of the cores or a GPU of its own."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from concord.bert.errors import InputError
from concord.bert.files import PROJECT
from concord.train.command import INTERRUPTED
from concord.train.outputs.locks import held, locked
from concord.train.outputs.names import LOCK_FILE, METRICS_FILE
from concord.train.outputs.stopping import StopRequest, stop_on_signal
from concord.train.reporter import Reporter
from concord.train.threads import THREADS, cores, quota

_COMMAND = (sys.executable, "-m", "concord.train.run")
_GPUS = "CUDA_VISIBLE_DEVICES"
_PATIENCE = 0.2  # seconds between two looks at whether a stop is asked for
_LONGEST_WAIT = 120.0  # seconds for runs to stop, whose command was killed before
_LONGEST_ERROR = 4096  # bytes of what a process says last on its error output

OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Place:
    """Where a process runs beside others.

    Attributes:
        threads: that it may have.
        variables: of its environment, besides.
    """

    threads: int
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a process has ended.

    Attributes:
        name: of its run.
        code: its exit code, negative for the signal that ended it; None where it was not begun, since a stop was asked
            for before.
        error: what it said last on its error output.
    """

    name: str
    code: int | None
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it has ended otherwise than well, or by a stop that was asked for."""
        return self.code not in (0, None, INTERRUPTED, -signal.SIGTERM)

    @property
    def reason(self) -> str:
        """Why it failed, on one line."""
        lines = [line for line in self.error.splitlines() if line.strip()]
        named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        ending = f"ended by signal {-self.code}" if self.code and self.code < 0 else f"ended with code {self.code}"
        return (named or lines or [ending])[-1]


def places(most: int, device: str, threads: int = 0, *, exactly: bool = False) -> list[Place]:
    """Places for at most `most` processes at once: a GPU each where runs take GPUs, otherwise a core at least each.

    device: as --device takes it; threads: of each process, 0 for its share of the cores. OMP_NUM_THREADS bounds the
    threads of a process here as everywhere. exactly: whether there are to be as many in any case, which then share.
    """
    allowed = min(cores(), quota() or cores())
    gpus = _gpus() if device != "cpu" else []
    count = most if exactly else max(1, min(most, len(gpus) or allowed))
    share = max(1, allowed // count)
    if os.environ.get(THREADS, "").isdecimal():
        share = max(1, min(share, int(os.environ[THREADS])))
    return [Place(threads or share, {_GPUS: gpus[number % len(gpus)]} if gpus else {}) for number in range(count)]


def _gpus() -> list[str]:
    """The GPUs that this process sees, by what a child's CUDA_VISIBLE_DEVICES calls them."""
    import torch  # not with this module: a command that is refused need not wait for it

    named = [name.strip() for name in os.environ.get(_GPUS, "").split(",") if name.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]


class Processes:
    """Runs that are started as there are places for them.

    Args:
        places: where they run.
        on_event: is told the name of a run and each event that it prints with --json; one call at a time.
        stop: whether all are to stop: those that run save their states, the others are not begun.
        variables: of the environment of each.
        on_end: is told how each has ended, as soon as it has; from the same threads as `on_event`, one call at a time.
    """

    def __init__(
        self,
        places: Sequence[Place],
        on_event: OnEvent,
        stop: StopRequest,
        variables: Mapping[str, str] | None = None,
        on_end: Callable[[Ended], None] = lambda ended: None,
    ) -> None:
        self._places: queue.Queue[Place] = queue.Queue()
        for place in places:
            self._places.put(place)
        self._most, self._on_event, self._stop = len(places), on_event, stop
        self._variables, self._on_end = variables or {}, on_end
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self, jobs: Mapping[str, Callable[[], Sequence[str] | None]]) -> list[Ended]:
        """Run them all: name -> what gives the arguments of train.run once it is its turn, None where it is not to
        run. How each has ended, in their order.

        Signals that ask for a stop end all of them with their states saved; a second Ctrl-C or SIGTERM raises
        KeyboardInterrupt, and ends them at once.
        """
        with ThreadPoolExecutor(self._most) as pool, stop_on_signal(self._stop):
            futures = [pool.submit(self._run, name, arguments) for name, arguments in jobs.items()]
            try:
                while wait(futures, timeout=_PATIENCE).not_done:
                    if self._stop.made and not self._stopping:
                        self._end(signal.SIGTERM)
                return [future.result() for future in futures]
            except BaseException:
                self._end(signal.SIGTERM)  # a second one where a stop was asked for before: it ends them at once
                raise

    def _end(self, number: int) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running.values():
                process.send_signal(number)

    def end(self, name: str) -> None:
        """Have one run stop, with its state saved; nothing where it does not run."""
        with self._lock:
            if name in self._running:
                self._running[name].send_signal(signal.SIGTERM)

    def _run(self, name: str, arguments: Callable[[], Sequence[str] | None]) -> Ended:
        place = self._places.get()
        try:
            given = None if self._stopping else arguments()
            ended = Ended(name, None) if given is None else self._ended(name, given, place)
            with self._telling:
                self._on_end(ended)
            return ended
        finally:
            self._places.put(place)

    def _ended(self, name: str, arguments: Sequence[str], place: Place) -> Ended:
        with tempfile.TemporaryFile() as errors:
            process = self._started(name, arguments, place, errors)
            if process is None:
                return Ended(name, None)
            try:
                for line in process.stdout:
                    self._tell(name, line)
                code = process.wait()
            finally:
                with self._lock:
                    del self._running[name]
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LONGEST_ERROR))
            return Ended(name, code, errors.read().decode("utf-8", "replace").strip())

    def _started(
        self, name: str, arguments: Sequence[str], place: Place, errors: Any
    ) -> "subprocess.Popen[bytes] | None":
        """The process of a run; None where a stop was asked for meanwhile. It is in a session of its own, so that a
        Ctrl-C, which the terminal sends to all of a command's processes, reaches it once: from here."""
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"PYTHONPATH": os.pathsep.join(paths), THREADS: str(place.threads), "PYTHONUNBUFFERED": "1"}
        with self._lock:
            if self._stopping:
                return None
            process = subprocess.Popen(
                [*_COMMAND, *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **variables, **place.variables, **self._variables},
                start_new_session=True,
            )
            self._running[name] = process
            return process

    def _tell(self, name: str, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:  # something else has printed a line
            event = {"event": "say", "text": line.decode("utf-8", "replace").rstrip()}
        with self._telling:
            self._on_event(name, event if isinstance(event, dict) else {"event": "say", "text": str(event)})


def alone(directory: Path) -> IO[bytes]:
    """An open file by which this process has a folder of several runs to itself until the file is closed, or the
    process ends; InputError where another process has it."""
    file = (directory / LOCK_FILE).open("ab")
    if not locked(file):
        file.close()
        raise InputError(f"{directory}: another process is running what is in it, expected none")
    return file


def wait_until_free(folder: Path, reporter: Reporter) -> None:
    """Wait while a process that an earlier command has started, and that was killed itself, saves the run's state."""
    log, until = folder / METRICS_FILE, time.monotonic() + _LONGEST_WAIT
    waits = False
    while log.is_file() and held(log) and time.monotonic() < until:
        if not waits:
            reporter.say(f"{folder.name}  waits until the process that has it is gone")
        waits = True
        time.sleep(0.5)
