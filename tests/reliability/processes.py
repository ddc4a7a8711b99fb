"""Commands in processes of their own, which are forked from one that has imported everything, and what runs leave."""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from concord.train.outputs.log import read_lines

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.reliability.preloaded"])
_TIMES = {"seconds", "training_seconds", "examples_per_second", "tokens_per_second", "finished", "log_bytes"}


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative where a signal ended it), what it printed, and whether it hung."""

    code: int
    out: str
    err: str
    hung: bool

    @property
    def kind(self):
        """In a word: ok, refused (one line, exit code 2), stopped, killed, and what must not be."""
        if self.hung:
            return "HANGS"
        if "Traceback" in self.out + self.err:
            return "TRACEBACK"
        if self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1:
            return "refused"
        return {0: "ok", 130: "stopped", -signal.SIGKILL: "killed"}.get(self.code, f"CODE {self.code}")


class Command:
    """A command line in a process of its own, whose output goes to files.

    Args:
        name: run, evaluate or predict.
        arguments: of the command line.
        fault: what the process is to do to itself, with a method `install`.
    """

    def __init__(self, name, arguments, fault=None):
        self._folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        self._process = _CONTEXT.Process(
            target=_run, args=(name, [str(argument) for argument in arguments], fault, self._folder)
        )
        self._process.start()

    def kill(self):
        """SIGKILL, where it runs yet."""
        self._process.kill()

    def pause(self):
        """SIGSTOP, where it runs yet."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self):
        """SIGCONT, after `pause`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def wait(self, seconds=60.0):
        """How it ended; after so many seconds it is killed as hung."""
        self._process.join(seconds)
        hung = self._process.is_alive()
        if hung:
            self._process.kill()
            self._process.join()
        texts = [(self._folder / name).read_text(errors="replace") for name in ("out", "err") if self._made(name)]
        shutil.rmtree(self._folder)
        return Outcome(self._process.exitcode, *([*texts, "", ""])[:2], hung)

    def _made(self, name):
        return (self._folder / name).exists()


def run(name, arguments, fault=None):
    """The outcome of a command."""
    return Command(name, arguments, fault).wait()


def _run(name, arguments, fault, folder):
    from tests.reliability.preloaded import MAINS, run_command

    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / stream, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    code = 70
    try:
        if fault:
            fault.install()
        code = run_command(MAINS[name], arguments)
    except BaseException:
        traceback.print_exc()
    os._exit(code if code is not None else 0)


def wait_for(condition, seconds):
    """Wait until a condition holds, or so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.002)


def _without_times(value):
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in _TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def result(folder):
    """What a finished run left, without its times: name of a file -> content."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            found[name] = [_without_times(entry) for entry in read_lines(path.read_bytes())[0]]
        elif path.name == "summary.json":
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.parent == Path(folder) and path.suffix == ".safetensors":
            found[name] = _state(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def _state(path):
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in sorted(file.keys())}
        metadata = {name: text for name, text in sorted(file.metadata().items()) if name != "concord.digest"}
    return tensors, metadata | {"progress": _without_times(json.loads(metadata["progress"]))}


def different(one, other):
    """The names of the files in which two results differ."""
    return sorted(name for name in one.keys() | other.keys() if repr(one.get(name)) != repr(other.get(name)))


def leftovers(folder):
    """The temporary files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.part"))
