"""Contestants measured in turn, in one process: what disturbs the machine meets all of them alike.

Only on a CPU: a GPU's rounds are timed by events on its stream, one contestant after the other.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from concord.kernels.measure import Timing, Work, summarise

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Who takes part.

    run: does one round; case, peer, work, parity, extra: of its row of results, see `record` of the benchmarks.
    """

    run: Callable[[], object]
    case: dict[str, Any]
    peer: str = "concord"
    work: Work | None = None
    parity: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


class Turns:
    """The rounds of a contest, each of which runs every contestant once, in their order.

    Attributes:
        wall: a list a contestant, of seconds by the clock.
        thread: the same by the CPU clock of this thread, which the machine's other work does not count in; of one
            thread alone, since it tells nothing of others.
    """

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        self._contestants = contestants
        self.wall: list[list[float]] = [[] for _ in contestants]
        self.thread: list[list[float]] = [[] for _ in contestants]

    def take(self) -> None:
        """One round."""
        for contestant, wall, thread in zip(self._contestants, self.wall, self.thread, strict=True):
            began, began_thread = time.perf_counter(), time.thread_time()
            contestant.run()
            wall.append(time.perf_counter() - began)
            thread.append(time.thread_time() - began_thread)

    def timings(self, warm_up: int) -> list[tuple[Timing, Timing | None]]:
        """Of each contestant what a round takes, by the clock and by this thread's, without the first `warm_up`."""
        alone = torch.get_num_threads() == 1
        return [
            (summarise(wall[warm_up:]), summarise(thread[warm_up:]) if alone else None)
            for wall, thread in zip(self.wall, self.thread, strict=True)
        ]


def peak_bytes(case: str, name: str, amp: str) -> int:
    """What two steps of a contestant take of memory at their peak, beside the process with its libraries; measured in
    a process of its own.

    case: as `str(case)` has it, of `bench.step_cases`; name: of the contestant.
    """
    arguments = [sys.executable, "-m", "bench.peak_memory", case, name, amp]
    done = subprocess.run(arguments, cwd=ROOT, env=os.environ, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
