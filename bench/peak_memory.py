"""The memory that a contestant's steps take at their peak: python -m bench.peak_memory CASE NAME AMP, on Linux.

Prints bytes: the process's peak after two steps, less what it held before the model was built. It is a process of its
own, since the peak of a process never falls.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.lengths import read_lengths, splits_of_lengths
from bench.measure import take_defaults
from bench.step_cases import CASES, SMALL, build_step, splits_of

_STATUS = Path("/proc/self/status")


def _kilobytes(name: str) -> int:
    """A line of what the kernel tells of this process."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def main(arguments: Sequence[str]) -> None:
    """Print the bytes."""
    wanted, name, amp = arguments
    case = next(case for case in (SMALL, *CASES) if str(case) == wanted)
    take_defaults()
    splits = splits_of(case, splits_of_lengths(read_lengths()))
    before = _kilobytes("VmRSS")
    step = build_step(case, name, splits, torch.device("cpu"), rounds=1, warm_up=1, amp=amp)
    for _ in range(2):
        step.run()
    print(1024 * (_kilobytes("VmHWM") - before))


if __name__ == "__main__":
    main(sys.argv[1:])
