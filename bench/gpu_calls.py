"""One call on a GPU, with what it leaves: python -m bench.gpu_calls first|all OUT [SECONDS], as bench/gpu.sh calls it.

Written with nothing but Python's own library: what this machine lacks is found by `bench.gpu_environment`, and said.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.gpu_stages import CALLS, Place, cores
from bench.merge_results import merge_results
from bench.stages import Call, Outcome, Phase, Stage

ROOT = Path(__file__).resolve().parent.parent
USAGE = "usage: bash bench/gpu.sh first|all OUT [SECONDS]"
_CLOSING = 8.0  # seconds kept for ending what is cut off, and for packing the logs
_ENVIRONMENT = 45.0  # seconds for the check of what is there
_MOST_LOG = 1 << 20  # bytes of a log that are kept
_MOST_TRACE = 4 << 20  # bytes of a trace: a larger one is left out
_WIDE = 160  # characters of a line of the summary


def main(arguments: Sequence[str]) -> int:
    """Run the call: 0, 1 where a stage has failed or fell back or it was stopped, 2 where nothing can be run here."""
    began = time.monotonic()
    if len(arguments) not in (2, 3) or arguments[0] not in CALLS or not all(own.isdecimal() for own in arguments[2:]):
        print(USAGE, file=sys.stderr)
        return 2
    name, out = arguments[0], Path(arguments[1]).absolute()
    phases, seconds = CALLS[name]
    end = began + float(arguments[2] if len(arguments) == 3 else seconds) - _CLOSING
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        work, results = Path(folder), out / "results"
        for own in (work / "logs", results):
            own.mkdir(parents=True, exist_ok=True)
        python = os.environ.get("PYTHON", sys.executable)
        problem = check_environment(python, out, min(end, began + _ENVIRONMENT))
        if problem:
            (out / "summary.txt").write_text(f"{problem}\n", encoding="utf-8")
            print(problem, file=sys.stderr)
            return 2
        data = ROOT / ".carry" / "data"
        place = Place(
            python=python, work=work, results=results, data=str(data) if data.is_dir() else "demo", cores=cores()
        )
        report = Report(name, out, work, phases(place), began)
        call = Call(end, ROOT, work / "logs", report.add)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: call.stop())
        call.run(report.phases)
        report.stopped = call.stopped
        report.close()
    return int(report.at_fault or report.stopped or bool(report.unfinished))


def check_environment(python: str, out: Path, end: float) -> str:
    """Write environment.json; what is wrong, in one line, "" where nothing is."""
    command = [python, "-m", "bench.gpu_environment"]
    try:
        found = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(1.0, end - time.monotonic()),
        )
    except subprocess.TimeoutExpired as late:
        return f"error: the check of this machine did not end within {late.timeout:.0f} s"
    except OSError as error:
        return f"error: {python}: {error.strerror}"
    if found.returncode:
        last = (found.stderr.strip().splitlines() or [f"exit code {found.returncode}, and no reason given"])[-1]
        return last if last.startswith("error: ") else f"error: {last}"
    (out / "environment.json").write_text(found.stdout, encoding="utf-8")
    return ""


class Report:
    """What a call leaves: the summary, written anew with each outcome, results, and the logs.

    Attributes:
        stopped: whether the call was stopped from outside.
    """

    def __init__(self, name: str, out: Path, work: Path, phases: Sequence[Phase], began: float) -> None:
        self.phases, self._name, self._out, self._work, self._began = phases, name, out, work, began
        self._outcomes: dict[Stage, Outcome] = {}
        self.stopped = False

    @property
    def at_fault(self) -> bool:
        """Whether a stage that is required has failed, or any fell back."""
        return any(outcome.at_fault for outcome in self._outcomes.values())

    @property
    def unfinished(self) -> list[str]:
        """Stages of which nothing is known yet."""
        return [stage.name for stage in self._stages() if stage not in self._outcomes]

    def _stages(self) -> list[Stage]:
        return [stage for phase in self.phases for lane in phase.lanes for stage in lane]

    def add(self, outcome: Outcome) -> None:
        """Take an outcome in, and say that it is there."""
        self._outcomes[outcome.stage] = outcome
        print(_headline(outcome), flush=True)
        merge_results(self._work / "results", self._out / "results", f"bash bench/gpu.sh {self._name} OUT")
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(self._work / "run" / "summary.json", self._out / "run-summary.json")
        self._write()

    def close(self) -> None:
        """Pack the logs and print the summary."""
        shorten_logs(self._work)
        with tarfile.open(self._out / "logs.tar.gz", "w:gz", compresslevel=3) as packed:
            for name in ("logs", "parity"):
                if (self._work / name).is_dir():
                    packed.add(self._work / name, name)
        self._write()
        print("\n" + (self._out / "summary.txt").read_text(encoding="utf-8"), end="", flush=True)

    def _write(self) -> None:
        beside = self._out / "summary.part"
        beside.write_text("\n".join(line[:_WIDE] for line in self._lines()) + "\n", encoding="utf-8")
        beside.replace(self._out / "summary.txt")

    def _lines(self) -> list[str]:
        """The summary: in the order of the stages' value, not of their ends."""
        lines = [self._head()]
        for outcome in (self._outcomes[stage] for stage in self._stages() if stage in self._outcomes):
            if outcome.stage.shown or outcome.fallbacks:
                lines += [_headline(outcome), *[f"    {line.strip()}" for line in outcome.lines[1:]]]
                lines += [f"    fell back: {line}" for line in outcome.fallbacks]
        lines += [f"not yet: {', '.join(self.unfinished)}"] if self.unfinished else []
        verdict = "stopped" if self.stopped else "at fault" if self.at_fault else "no fault found"
        return [*lines, f"{self._name}: {verdict}, {time.monotonic() - self._began:.0f} s"]

    def _head(self) -> str:
        """Device, versions and commit."""
        found = json.loads((self._out / "environment.json").read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        return f"{found['device']['device']}; {versions}; commit {found['commit'] or 'unknown'}"


def shorten_logs(work: Path) -> None:
    """Leave out the middle of logs that are too long, and whole traces that are."""
    for path in [path for name in ("logs", "parity") for path in (work / name).rglob("*") if path.is_file()]:
        size = path.stat().st_size
        if path.name.endswith(".gz") and size > _MOST_TRACE:
            path.unlink()
        elif not path.name.endswith(".gz") and size > _MOST_LOG:
            with path.open("r+b") as file:
                head = file.read(_MOST_LOG // 2)
                file.seek(-_MOST_LOG // 2, os.SEEK_END)
                tail = file.read()
                file.seek(0)
                file.write(head + b"\n[...]\n" + tail)
                file.truncate()


def _headline(outcome: Outcome) -> str:
    """A stage in a line."""
    why = f" ({outcome.why})" if outcome.why else ""
    took = f" {outcome.seconds:>4.0f} of {outcome.limit:.0f} s" if outcome.limit else ""
    told = f"  {outcome.lines[0].strip()}" if outcome.lines else ""
    return f"{outcome.stage.name:<24} {outcome.how}{why}{took}{told}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
