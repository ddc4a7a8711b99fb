"""The GPU architectures that kernels are compiled for, and what each of them allows."""

from dataclasses import dataclass

import torch
from triton.backends.compiler import GPUTarget

_KIB = 1024


@dataclass(frozen=True)
class Target:
    """A GPU architecture: its name, Triton's target, bytes of shared memory a program may use, registers a thread.

    half: the 16-bit dtype that mixed precision takes there; products: whether attention and matrix products are
    Triton's there; matrix: the matrix instructions to look for; shortest_side: of the operands of 16-bit products, in
    kernels of several (see `kernels.attention.tiles.shortest_side`); threads, programs_at_most, shared_of_all: what a
    multiprocessor holds at once, 0 where that is not counted; width: bytes that a thread of a streaming kernel moves at
    once, 0 where that is not judged.
    """

    name: str
    target: GPUTarget
    shared: int
    half: torch.dtype = torch.bfloat16
    products: bool = True
    matrix: tuple[str, ...] = ("mma.sync",)
    registers: int = 255
    shortest_side: int = 16
    threads: int = 2048
    programs_at_most: int = 32
    shared_of_all: int = 228 * _KIB
    width: int = 16


_SMALL = {"threads": 1536, "shared_of_all": 100 * _KIB}
TARGETS = {
    target.name: target
    for target in (
        Target(
            "sm_75",
            GPUTarget("cuda", 75, 32),
            64 * _KIB,
            torch.float16,
            products=False,
            threads=1024,
            programs_at_most=16,
            shared_of_all=64 * _KIB,
        ),
        Target("sm_80", GPUTarget("cuda", 80, 32), 163 * _KIB, shared_of_all=164 * _KIB),
        Target("sm_86", GPUTarget("cuda", 86, 32), 99 * _KIB, **_SMALL, programs_at_most=16),
        Target("sm_89", GPUTarget("cuda", 89, 32), 99 * _KIB, **_SMALL, programs_at_most=24),
        Target(
            "sm_90", GPUTarget("cuda", 90, 32), 227 * _KIB, matrix=("wgmma.mma_async", "mma.sync"), shortest_side=64
        ),
        Target("sm_100", GPUTarget("cuda", 100, 32), 227 * _KIB, matrix=("tcgen05.mma", "mma.sync")),
        Target("sm_120", GPUTarget("cuda", 120, 32), 99 * _KIB, **_SMALL),
        Target(
            "gfx942", GPUTarget("hip", "gfx942", 64), 64 * _KIB, matrix=("v_mfma",), registers=512, threads=0, width=8
        ),
    )
}
