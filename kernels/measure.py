"""How speed is measured: device events, cold caches, medians with their spread, and the limits of the device.

On a GPU a round is timed by events on its stream, after the L2 cache has been overwritten; on a CPU by the clock. What
a round must move and multiply at least gives its floor, and the limits that the floor is taken against are measured on
the device by the same process: a large copy, and a large product in each dtype.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from concord.kernels.graphs import capture
from concord.kernels.products import by_onednn, cpu_multiplies_bf16, onednn_missing

FLUSH_BYTES = 256 << 20  # more than any L2 cache


@dataclass(frozen=True)
class Timing:
    """How long a round takes.

    median: seconds.
    p20: seconds, the 20th percentile.
    p80: seconds, the 80th percentile.
    """

    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Work:
    """The least that one round must do.

    bytes: that are read from and written to device memory.
    operations: of matrix products.
    dtype: of these products.
    """

    bytes: float = 0.0
    operations: float = 0.0
    dtype: torch.dtype = torch.float32

    def floor(self, limits: "Limits") -> float:
        """Seconds that the slower of the two takes at the device's measured limits."""
        rate = limits.products[_name(self.dtype)]
        return max(self.bytes / limits.copy, self.operations / rate)


@dataclass(frozen=True)
class Limits:
    """What the device was measured to reach.

    copy: bytes a second of a copy, those that are read and those that are written.
    products: operations a second of matrix products, by the name of their dtype.
    """

    copy: float
    products: dict[str, float]


class EventTimer:
    """Times rounds by events on the GPU's stream, each after the L2 cache has been overwritten."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flush = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device=device)
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, function: Callable[[], Any]) -> None:
        """One round of `function`. Nothing waits for it: while the cache is overwritten, the round is launched."""
        self._flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        stop.record()
        self._pairs.append((start, stop))

    def seconds(self) -> list[float]:
        """What each round took, once all are done."""
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(stop) / 1000 for start, stop in self._pairs]


def time_rounds(function: Callable[[], Any], device: torch.device, *, rounds: int, warm_up: int = 3) -> Timing:
    """Time `rounds` calls of `function` on `device`, after `warm_up` that do not count."""
    if device.type == "cpu":
        return summarise([_clocked(function) for _ in range(warm_up + rounds)][warm_up:])
    timer = EventTimer(device)
    for _ in range(warm_up + rounds):
        timer.time(function)
    return summarise(timer.seconds()[warm_up:])


def summarise(seconds: list[float]) -> Timing:
    """Median and percentiles of the rounds' seconds."""
    if len(seconds) < 2:
        return Timing(seconds[0], seconds[0], seconds[0])
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return Timing(statistics.median(seconds), fifths[0], fifths[3])


@dataclass(frozen=True)
class _Replay:
    """A graph, and what it reads, which lives as long."""

    graph: torch.cuda.CUDAGraph
    read: tuple[Any, ...]

    def __call__(self) -> None:
        self.graph.replay()


def captured(
    function: Callable[..., Any],
    device: torch.device,
    *,
    prepare: Callable[[], tuple[Any, ...]] | None = None,
    warm_up: int = 3,
) -> Callable[[], Any]:
    """`function` as a CUDA graph, whose replay costs one launch; on a CPU `function` itself.

    The time that Python takes to launch a kernel then is not taken for the kernel's own.
    prepare: makes the arguments of `function`. The forward whose backward is measured belongs here: it becomes a graph
    of its own, on the same stream, since autograd runs each node on its forward's and a capture may not reach another
    one, and since the seed of attention's dropout is kept on the host outside of a capture, where the backward's graph
    would look for it on the device. It is replayed once.
    """
    if device.type == "cpu":
        return partial(function, *(prepare() if prepare else ()))
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        arguments = prepare() if prepare else ()
        for _ in range(warm_up):
            function(*arguments)
    current.wait_stream(stream)
    before, pool = None, None
    if prepare:
        before, arguments = capture(prepare, stream)
        pool = before.pool()
    graph, _ = capture(lambda: function(*arguments), stream, pool)
    if before:
        before.replay()
    return _Replay(graph, (function, before, *arguments))


@cache
def measure_limits(device: torch.device) -> Limits:
    """The copy bandwidth and the product rates of `device`, measured once a process.

    The rate of a dtype is that of the fastest library that there is for it. On a GPU the median round counts, on a CPU
    the fastest: it shares its cores with whatever else runs, which is no limit of its own.
    """
    if device.type == "cpu":
        return _limits_of_cpu()
    source = torch.rand(1 << 28, device=device)
    target = torch.empty_like(source)
    copy = time_rounds(lambda: target.copy_(source), device, rounds=20).median
    products = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        left, right = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
        timing = time_rounds(partial(torch.mm, left, right), device, rounds=20)
        products[_name(dtype)] = 2 * 8192**3 / timing.median
    return Limits(copy=2 * 4 * source.numel() / copy, products=products)


def _limits_of_cpu() -> Limits:
    source, edge = torch.rand(1 << 25), 1024
    target = torch.empty_like(source)
    copy = _fastest(lambda: target.copy_(source), rounds=10)
    products = {}
    for dtype in (torch.float32, torch.bfloat16) if cpu_multiplies_bf16() else (torch.float32,):
        left, right = (torch.randn(edge, edge).to(dtype) for _ in range(2))
        libraries = [torch.mm]
        if dtype == torch.float32 and not onednn_missing():
            libraries.append(by_onednn)
        products[_name(dtype)] = 2 * edge**3 / min(_fastest(partial(by, left, right), rounds=20) for by in libraries)
    return Limits(copy=2 * 4 * source.numel() / copy, products=products)


def _fastest(function: Callable[[], Any], *, rounds: int) -> float:
    """Seconds of the fastest round, by the thread's own clock where one thread computes."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    found = []
    for _ in range(rounds):
        began = clock()
        function()
        found.append(clock() - began)
    return min(found)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _clocked(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
