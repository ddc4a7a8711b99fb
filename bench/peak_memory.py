"""A contestant's step, and the memory that it takes at its peak, in a process of its own, on Linux:

    python -m bench.peak_memory step CASE NAME AMP      a trainer's, of bench.step_cases
    python -m bench.peak_memory loop MODEL TASKS NAME   a loop's, of bench.loop_cases

Two steps are done. Printed are the seconds of the second, by the clock and by the thread that computes, and the bytes
of both: the process's peak, less what it held before the model was built. A process of its own has nothing that another
contestant has left.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from bench.contest import Taken
from bench.lengths import read_lengths, splits_of_lengths
from bench.loop_cases import MOST_BYTES, build_loop
from bench.measure import take_defaults
from bench.step_cases import CASES, SMALL, build_step, splits_of

_STATUS, _CLEARED = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPU = torch.device("cpu")
Build = Callable[[], Callable[[], object]]


def _kilobytes(name: str) -> int:
    """A line of what the kernel tells of this process."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def second_step(build: Build) -> Taken:
    """Do two steps of what `build` gives."""
    _CLEARED.write_text("5", encoding="ascii")  # the peak so far, of imports and data, is forgotten
    before = _kilobytes("VmRSS")
    step = build()
    step()
    began, began_thread = time.perf_counter(), time.thread_time()
    step()
    wall, thread = time.perf_counter() - began, time.thread_time() - began_thread
    return Taken(wall=wall, thread=thread, peak_bytes=1024 * (_kilobytes("VmHWM") - before))


def _trainer(wanted: str, name: str, amp: str) -> Build:
    case = next(case for case in (SMALL, *CASES) if str(case) == wanted)
    splits = splits_of(case, splits_of_lengths(read_lengths()))
    return lambda: build_step(case, name, splits, _CPU, rounds=1, warm_up=1, amp=amp).run


def _loop(model: str, tasks: str, name: str) -> Build:
    # Whoever needs more fails, rather than the machine.
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    return lambda: build_loop(name, model, int(tasks), _CPU)


def main(arguments: Sequence[str]) -> None:
    """Print it, as JSON."""
    kind, *contestant = arguments
    take_defaults()
    print(json.dumps(asdict(second_step({"step": _trainer, "loop": _loop}[kind](*contestant)))))


if __name__ == "__main__":
    main(sys.argv[1:])
