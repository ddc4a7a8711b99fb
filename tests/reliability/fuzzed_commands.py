"""Whole commands with odd settings, on data, models and runs of which many are damaged, each in a forked child."""

import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import LONGEST
from concord.train import evaluate, predict, pretrain, run
from concord.train.command import run_command
from concord.train.runs.fine_tuning import FineTuning
from concord.train.settings.config import RunConfig
from concord.train.settings.options import flag_of
from tests.reliability.mutations import NUMBERS, TEXTS
from tests.samples import write_small_model
from tests.train.small_runs import ADJECTIVES, THINGS, write_course_data

SECONDS = 60  # that a command may take, whatever it is asked for
MEMORY = 2 << 30  # bytes of addresses beyond those that the process has before
_MAINS = {"run": run.main, "evaluate": evaluate.main, "predict": predict.main, "pretrain": pretrain.main}
_WORDS = ["the", "was", "where", "is", "can", "i", "find", "saw", "a", "seen", ".", "?", *ADJECTIVES, *THINGS]
_HUGE = ["1000000000", "9223372036854775807", "9" * 30]
# Settings that reach far where they are taken, beside what every setting gets.
_REACHING = {
    "batch_size": _HUGE,
    "accumulate": ["3", "auto", *_HUGE],
    "micro_batch": ["1", "3", *_HUGE],
    "epochs": _HUGE,
    "steps_per_epoch": _HUGE,
    "max_length": ["8", *_HUGE],
    "pals": ["1", "7", "100000", *_HUGE],
    "seed": ["0", str(2**64 - 1)],
    "learning_rate": ["0", "1e30", "1e300"],
    "head_learning_rate": ["0", "1e30", "1e300"],
    "clip": ["1e-300", "1e300", "0"],
    "warmup": ["0.999", "1e-9"],
    "average": ["0.999999"],
    "hidden_dropout": ["0.99998", "0"],
    "margin": ["1e300", "-1"],
    "loss_weights": ["0", "1e300", "sst=1e-300"],
    "sampling_weights": ["0", "1000", "sst=1e-300"],
    "smart": ["1e300", "sst=1"],
    "milestones": ["0", "9" * 20, "٣"],
    "decay": ["1e300", "0"],
    "weight_decay": ["1e300", "0"],
    "stages": ["heads:1", "heads:1,all:1", "all:٣", f"all:{'9' * 30}"],
    "tasks": ["sst", "sst,sts", "paraphrase"],
    "amp": ["bf16", "fp16", "auto"],
    "surgery": ["gradvac", "pcgrad", "none"],
}


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: its exit code, below 0 where a signal ended it; None where it did not end in time.
        errors: what it wrote to its error output.
    """

    code: int | None
    errors: str

    @property
    def fault(self) -> str:
        """What is wrong with it, "" where nothing is."""
        lines = self.errors.splitlines()
        if self.code is None:
            return "no end"
        if "Traceback" in self.errors or self.code not in (0, 2):
            return f"exit code {self.code}: {lines[-1] if lines else ''}"
        if self.code == 2 and (len(lines) != 1 or not lines[0].startswith("error: ")):
            return f"{len(lines)} lines: {self.errors[:200]!r}"
        if any(len(line) > LONGEST + len("error: ") for line in lines):
            return f"a line of {max(map(len, lines))} characters"
        return ""


def run_forked(name: str, arguments: list[str], seconds: float = SECONDS) -> Ending:
    """Run a command in a forked child, with a limit of time and of memory."""
    with tempfile.TemporaryFile("w+b") as errors:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _become(name, arguments, errors.fileno())
        began = time.monotonic()
        ended, status = os.waitpid(child, os.WNOHANG)
        while not ended and time.monotonic() - began < seconds:
            time.sleep(0.005)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        errors.seek(0)
        code = os.waitstatus_to_exitcode(status) if ended else None
        return Ending(code, errors.read().decode(errors="replace"))


def _become(name: str, arguments: list[str], errors: int) -> None:
    """Be the command; this does not return."""
    code = 70
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        FineTuning._draw = lambda *arguments: None
        code = run_command(_MAINS[name], arguments)
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    finally:
        os._exit(code)


class Commands:
    """Makes commands, and what they read.

    Args:
        folder: for all of it.
        seed: of what is drawn.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._data = write_course_data(folder / "data", examples=8)
        self._model = write_small_model(folder / "model", _WORDS)
        self._text = folder / "text.txt"
        self._text.write_text("".join(f"the {thing} was {word}\n" for thing in THINGS for word in ADJECTIVES))
        self._run = folder / "run"
        ending = run_forked("run", self._arguments(self._data, self._model, self._run), 300)
        assert ending == Ending(0, ""), ending

    def draw(self) -> tuple[str, list[str]]:
        """The name of a command, and its arguments; whatever it reads lies ready."""
        for name in ("new", "damaged"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        return self._random.choice([self._draw_run] * 6 + [self._draw_pretrain] * 2 + [self._draw_saved] * 3)()

    def _arguments(self, data: Path, model: Path, out: Path) -> list[str]:
        sizes = ("--batch-size", "4", "--epochs", "1", "--max-steps", "2", "--device", "cpu", "--skip-bad-rows")
        return ["--data", str(data), "--model", str(model), "--out", str(out), *sizes]

    def _draw_run(self) -> tuple[str, list[str]]:
        data = self._perhaps_damaged(self._data, 0.4)
        model = self._perhaps_damaged(self._model, 0.3 if data == self._data else 0.0)
        return "run", [*self._arguments(data, model, self._folder / "new"), *self._flags(fields(RunConfig))]

    def _draw_pretrain(self) -> tuple[str, list[str]]:
        text = self._folder / "damaged" / "text.txt"
        text.parent.mkdir()
        content = self._text.read_bytes()
        text.write_bytes(self._mutated(content) if self._random.random() < 0.5 else content)
        options = [option for option in fields(RunConfig) if option.name in pretrain._SETTINGS]
        return "pretrain", [*self._arguments(text, self._model, self._folder / "new"), *self._flags(options)]

    def _draw_saved(self) -> tuple[str, list[str]]:
        saved = self._perhaps_damaged(self._run, 0.8)
        if self._random.random() < 0.4:
            return "evaluate", [str(saved), "--device", "cpu"]
        path = self._folder / "asked.tsv"
        content = (self._data / "sts-dev.csv").read_bytes()
        path.write_bytes(self._mutated(content) if self._random.random() < 0.5 else content)
        output = self._random.choice([self._folder / "answers.csv", path, saved / "tasks.json", self._folder])
        asked = ["--task", self._random.choice(["sts", "sst"]), "--input", str(path), "--output", str(output)]
        return "predict", [str(saved), *asked, "--device", "cpu"]

    def _perhaps_damaged(self, folder: Path, share: float) -> Path:
        """The folder, or with that probability a copy of it with one or two files damaged."""
        if self._random.random() >= share:
            return folder
        copy = self._folder / "damaged"
        shutil.copytree(folder, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        for path in self._random.sample(files, self._random.choice([1, 2])):
            path.write_bytes(self._mutated(path.read_bytes()))
        return copy

    def _mutated(self, data: bytes) -> bytes:
        data, draw = bytearray(data), self._random
        for _ in range(draw.choice([1, 1, 2, 8])):
            at = draw.randrange(len(data) + 1)
            pieces = [text.encode() for text in (*NUMBERS, *TEXTS)]
            kind = draw.randrange(4)
            if kind == 0:
                data[at:at] = draw.choice(pieces)
            elif kind == 1:
                del data[at : at + draw.choice([1, 10, 100])]
            elif kind == 2:
                data[at : at + 1] = bytes([draw.randrange(256)])
            else:
                data[at:at] = data[max(0, at - 50) : at]
        return bytes(data)

    def _flags(self, options: Any) -> list[str]:
        # What --report-to tells lies outside of the folder.
        kept = ("data", "model", "device", "recipe", "report_to")
        free = [option for option in options if option.name not in kept]
        return [self._flag(option) for option in self._random.sample(free, self._random.choice([0, 1, 2, 3]))]

    def _flag(self, option: Any) -> str:
        if option.type is bool:
            return flag_of(option.name)
        choices = list(option.metadata.get("choices") or option.metadata.get("each") or [])
        odd = [*NUMBERS, *(text for text in TEXTS if "\0" not in text)]
        pools = [_REACHING.get(option.name, []), choices, odd]
        pool = self._random.choice([pool for pool in (pools[0], pools[0], *pools) if pool])
        return f"{flag_of(option.name)}={self._random.choice(pool)}"


def fuzz_commands(
    count: int, seed: int, told: Callable[[str], None] = lambda line: None
) -> tuple[Counter[str], list[str]]:
    """Run so many commands: how many ended in which way, and a line for each kind of fault. told: of each fault."""
    tally: Counter[str] = Counter()
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder), seed)
        for _ in range(count):
            name, arguments = commands.draw()
            ending = run_forked(name, arguments)
            tally["command's fault" if ending.fault else f"command ended with {ending.code}"] += 1
            if ending.fault:
                kind = re.sub(r"\d+", "N", ending.fault)[:100]
                line = f"{name} {[text[:60] for text in arguments]}: {ending.fault}\n{ending.errors[-1500:]}"
                if kind not in faults:
                    told(line)
                faults.setdefault(kind, line)
    return tally, list(faults.values())
