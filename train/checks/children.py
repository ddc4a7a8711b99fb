"""Ops judged in child processes: a kernel that faults or hangs costs nobody but its child anything.

The children are started before their parent opens a context on the device. What they compile lies in Triton's cache,
and is not compiled again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch

from concord import kernels
from concord.kernels.checks.child import OUT_OF_MEMORY
from concord.kernels.checks.shapes import Shapes

CHILD = (sys.executable, "-m", "concord.kernels.checks.child")
SECONDS = 240  # for one case, compilation included
_JOBS = 4  # children at once, where there are twice as many cores
_SOURCE = Path(kernels.__file__).parent
_MOST_REASON = 160  # characters of what a child says last
_MOST_OUTPUT = 2000  # bytes of either end of what a child says of a case

Entry = dict[str, Any]
"""A verdict as the child prints it: the fields of `kernels.checks.judging.Verdict`, and what a timing found.

One against the kernels has `output` too: what the child said of the case on its error output, the traceback and the
compiler's words, whose middle is left out where that is long.
"""
OnVerdict = Callable[[Entry], None]


class CheckNotDone(Exception):
    """The check says nothing, since its child could not judge anything; the message says why."""


def judge_ops(
    ops: Sequence[str],
    shapes: Shapes,
    device: torch.device,
    *,
    kernels: str = "triton",
    timed: bool = False,
    isolated: bool = False,
    jobs: int | None = None,
    seconds: float | None = None,
    on_verdict: OnVerdict = lambda entry: None,
) -> list[Entry]:
    """Judge the cases of `ops` in child processes: verdicts, in the order of the ops.

    kernels: which are judged, "triton" or "native"; timed: whether cases are timed too; isolated: whether each op has
    a child of its own; jobs: children at once, by default what the cores allow; seconds: after which a case that has
    not ended fails, by default `SECONDS`; on_verdict: is told of each verdict as it comes, from several threads.
    Raises CheckNotDone where a child judges nothing at all.
    """
    jobs = jobs or max(1, min(_JOBS, (os.cpu_count() or 1) // 2))
    limit = SECONDS if seconds is None else seconds
    request = {
        "shapes": shapes.as_json(),
        "device": str(device),
        "seed": int.from_bytes(os.urandom(4), "little"),
        "kernels": kernels,
        "timed": timed,
    }
    children = len(ops) if isolated else min(jobs, len(ops))
    groups = [list(ops[start::children]) for start in range(children)]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda group: _judge_group(group, request, limit, on_verdict), groups))
    by_op = {op: [entry for group in found for entry in group if entry["op"] == op] for op in ops}
    return [entry for entries in by_op.values() for entry in entries]


def _judge_group(ops: list[str], request: Mapping[str, Any], seconds: float, on_verdict: OnVerdict) -> list[Entry]:
    """One child after the other: where one ends early, the op that it was at is at fault, and the next has the rest."""
    verdicts: list[Entry] = []
    remaining = list(ops)
    while remaining:
        child = _Child({**request, "ops": remaining}, seconds, on_verdict)
        verdicts += child.verdicts
        if not child.ending:
            break
        if child.at is None or child.out_of_memory:
            raise CheckNotDone(child.ending)
        # A child that has said itself that the device is lost to it has given the verdict before.
        if not any(entry["op"] == child.at and not entry["passed"] for entry in child.verdicts):
            entry = {"op": child.at, "shapes": "", "passed": False, "error": None, "allowed": None}
            verdicts.append(entry | {"result": "", "reason": child.ending, "output": child.output})
            on_verdict(verdicts[-1])
        remaining = remaining[remaining.index(child.at) + 1 :]
    return verdicts


class _Child:
    """A child process that has answered a request, or ended before it had.

    Attributes:
        verdicts: that it gave; at: the op that it was at in the end, None where it had begun with none; ending: why it
            ended before it had judged all of them, "" where it had; output: what it said last;
            out_of_memory: whether a case did not fit.
    """

    def __init__(self, request: Mapping[str, Any], seconds: float, on_verdict: OnVerdict) -> None:
        self.verdicts: list[Entry] = []
        self.at: str | None = None
        self._seconds, self._late, finished = seconds, False, False
        path = os.pathsep.join([str(_SOURCE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                CHILD,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
            )
            try:
                finished = self._listen(process, request, errors, on_verdict)
            finally:
                process.kill()
                process.wait()
            size = os.fstat(errors.fileno()).st_size
            self.output = _part(errors, max(0, size - _MOST_OUTPUT), size)
            self.ending = "" if finished else self._describe(process.returncode)
            self.out_of_memory = not finished and process.returncode == OUT_OF_MEMORY

    def _listen(
        self,
        process: subprocess.Popen[bytes],
        request: Mapping[str, Any],
        errors: IO[bytes],
        on_verdict: OnVerdict,
    ) -> bool:
        """Whether every op was judged."""
        ends = 0
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        except BrokenPipeError:  # it has ended already, and `_describe` says how
            pass
        while line := self._line(process):
            entry = json.loads(line)
            if "begins" in entry:
                self.at = entry["begins"]
            elif "ends" in entry:
                ends += 1
            else:
                if not entry["passed"]:
                    entry["output"] = _part(errors, *entry.pop("said"))
                self.verdicts.append(entry)
                on_verdict(entry)
        process.wait()
        return ends == len(request["ops"])

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """The next line, b"" after the last one; a child that gives none in time is ended."""

        def end() -> None:
            self._late = True
            process.kill()

        timer = threading.Timer(self._seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return process.stdout.readline()
        finally:
            timer.cancel()

    def _describe(self, code: int) -> str:
        if self._late:
            return f"it did not end within {self._seconds:g} s"
        if code == OUT_OF_MEMORY:
            return f"the device has too little free memory for the check of {self.at}"
        lines = self.output.strip().splitlines()
        last = f": {lines[-1].strip()[:_MOST_REASON]}" if lines else ""
        if code < 0:
            return f"it ended its process with {signal.Signals(-code).name}{last}"
        return f"it ended its process with exit code {code}{last}"


def _part(file: IO[bytes], start: int, stop: int) -> str:
    """The bytes of `file` from `start` to `stop` as text, or its two ends where it is long.

    The file's position stays: a child that writes to the file shares it.
    """
    parts = [(start, stop)]
    if stop - start > 2 * _MOST_OUTPUT:
        parts = [(start, start + _MOST_OUTPUT), (stop - _MOST_OUTPUT, stop)]
    texts = (os.pread(file.fileno(), last - first, first).decode(errors="replace") for first, last in parts)
    return "\n[...]\n".join(texts)
