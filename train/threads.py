"""How torch's threads wait and how many there are, settled before torch is loaded, which reads it once.

OpenMP's threads wait for their next piece of work by spinning. Where another process wants one of their cores, a step
on a CPU takes several times as long for it: the thread that has the work waits for the one that spins. Waiting
passively costs little where the machine is idle, and saves that where it is not.
"""

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

SPINS = "2000"  # some tens of microseconds, before a thread sleeps: work comes again sooner within a step
# Whoever has set one of these has decided how threads wait, or how many there are.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
THREADS = "OMP_NUM_THREADS"
_CGROUPS = Path("/sys/fs/cgroup")


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have threads wait passively, and be no more than the cores that this process may use.

    Nothing that the user has set in `environment` is touched, nor anything where torch is loaded already.
    """
    if "torch" in sys.modules:
        return
    if not any(name in environment for name in _WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"
        environment["GOMP_SPINCOUNT"] = SPINS
    allowed = quota()
    if THREADS not in environment and allowed is not None and allowed < cores():
        environment[THREADS] = str(allowed)


def cores() -> int:
    """The cores that this process may run on; torch takes as many threads by itself."""
    if hasattr(os, "sched_getaffinity"):  # Linux has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(root: Path = _CGROUPS) -> int | None:
    """The whole cores that the time of this process's control group is worth, at least 1; None where it has no limit.

    A container sees all cores of its machine, and is stopped for the rest of each period once its time is spent.
    root: where control groups are mounted, of version 2 or 1.
    """
    try:
        limit, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit, period = (
                (root / "cpu" / name).read_text(encoding="ascii").strip()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        except (OSError, ValueError):
            return None
    if limit == "max" or int(limit) <= 0:
        return None
    return max(1, math.ceil(int(limit) / int(period)))
