"""Contestants measured in turn, in one process: what disturbs the machine meets all of them alike.

Only on a CPU: a GPU's rounds are timed by events on its stream, one contestant after the other.
"""

import json
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
class Taken:
    """What a round took: seconds by the clock, and by the CPU clock of the thread that computed; peak_bytes: of memory,
    None where it was not measured.
    """

    wall: float
    thread: float
    peak_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Who takes part.

    run: does one round; where it returns what that has `Taken`, this counts, and its call is not clocked; case, peer,
    work, parity, extra: of its row of results, see `record` of the benchmarks.
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
        taken: a list a contestant. The CPU clock is that of this thread, or of a contestant's own process, which the
            machine's other work does not count in.
    """

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        self._contestants = contestants
        self.taken: list[list[Taken]] = [[] for _ in contestants]

    def take(self) -> None:
        """One round."""
        for contestant, taken in zip(self._contestants, self.taken, strict=True):
            began, began_thread = time.perf_counter(), time.thread_time()
            found = contestant.run()
            clocked = Taken(wall=time.perf_counter() - began, thread=time.thread_time() - began_thread)
            taken.append(found if isinstance(found, Taken) else clocked)

    def timings(self, warm_up: int) -> list[tuple[Timing, Timing | None]]:
        """Of each contestant what a round takes, by the clock and by the thread's, without the first `warm_up`.

        The thread's is None where several compute: one of them tells nothing of the others.
        """
        alone, found = torch.get_num_threads() == 1, []
        for taken in self.taken:
            wall, thread = [one.wall for one in taken[warm_up:]], [one.thread for one in taken[warm_up:]]
            found.append((summarise(wall), summarise(thread) if alone else None))
        return found

    def peaks(self) -> list[int | None]:
        """Of each contestant the most memory that a round took, in bytes; None where its rounds do not tell."""
        return [
            max((one.peak_bytes for one in taken if one.peak_bytes is not None), default=None) for taken in self.taken
        ]


def by_itself(*contestant: str) -> Taken:
    """What the second step of a contestant takes, in a process of its own, and the memory of both at their peak.

    contestant: as `bench.peak_memory` is told of it. RuntimeError with the last line that it said where it fails, as it
    does where it needs too much memory.
    """
    arguments = [sys.executable, "-m", "bench.peak_memory", *contestant]
    done = subprocess.run(arguments, cwd=ROOT, env=os.environ, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(contestant)}: {(done.stderr.strip().splitlines() or ['it was ended'])[-1]}")
    return Taken(**json.loads(done.stdout.splitlines()[-1]))
