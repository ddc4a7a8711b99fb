"""A case of an op, computed by its kernels, by torch in the same dtype and in a higher precision; and the verdict."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from concord.kernels.dispatch import using_kernels
from concord.kernels.measure import Work, captured, measure_limits, time_rounds
from concord.kernels.tolerances import TOLERANCES, allowed_error, relative_error

Results = Mapping[str, Tensor]
_ROUNDS = 20  # of a timing
_MOST_REASON = 200  # characters of what a case has raised


@dataclass(frozen=True, kw_only=True)
class Case:
    """What an op is given, and what may come of it.

    op: a name in `kernels.ops.OPS`.
    shapes: the sizes and dtypes, in words; together with `op` the case's name.
    dtype: of the activations, whose tolerance counts.
    compute: what the op makes of it, by the kernels that are chosen, in a dtype: `dtype`, or fp64 for the exact results
        where `exact` is None.
    exact: the results in a higher precision, where the reference itself does not compute in fp64.
    repeats_torch: whether torch's expression in `dtype` is what the error is measured by; otherwise the table's
        tolerance of each result's dtype is.
    timed: one call, forward and backward, on tensors that it keeps; None for what is not timed.
    work: the least that such a call must move and multiply.
    """

    op: str
    shapes: str
    dtype: torch.dtype
    compute: Callable[[torch.dtype], Results]
    exact: Callable[[], Results] | None = None
    repeats_torch: bool = True
    timed: Callable[[], object] | None = None
    work: Work | None = None

    @property
    def name(self) -> str:
        """The op and its shapes."""
        return f"{self.op} {self.shapes}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a case.

    op: of the case.
    shapes: of the case.
    passed: whether the kernels may be trusted with it.
    error: the relative error of the result that is nearest to its limit, or furthest beyond it; None without one.
    allowed: the limit of that error.
    result: the name of that result.
    reason: why the case did not pass, in words.
    """

    op: str
    shapes: str
    passed: bool
    error: float | None = None
    allowed: float | None = None
    result: str = ""
    reason: str = ""


@contextmanager
def poisoned() -> Iterator[None]:
    """Within this context fresh memory holds NaN, so that what a kernel forgets to write is seen.

    On a CPU that is so of what native code asks for too: torch fills it, as its deterministic mode does. All of it
    is so for the whole process: no other thread may run meanwhile.
    """
    originals = {name: getattr(torch, name) for name in ("empty", "empty_like")}

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*arguments: object, **options: object) -> Tensor:
            tensor = make(*arguments, **options)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    mode = torch.get_deterministic_debug_mode()
    if not torch.cuda.is_initialized():  # there this mode has other effects
        torch.set_deterministic_debug_mode("error")
    for name, original in originals.items():
        setattr(torch, name, poison(original))
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        for name, original in originals.items():
            setattr(torch, name, original)


def judge(case: Case, kernels: str = "triton") -> Verdict:
    """Compute the case by the kernels, twice, and by its references, in a process that runs no other thread. What the
    kernels raise is raised here too.

    kernels: which are judged, "triton" or "native".
    """
    with using_kernels(kernels), poisoned():
        found, again = case.compute(case.dtype), case.compute(case.dtype)
    with using_kernels("torch"):
        exact = case.exact() if case.exact else case.compute(torch.float64)
        rounded = case.compute(case.dtype) if case.repeats_torch else None
    worst = Verdict(op=case.op, shapes=case.shapes, passed=True)
    for name, value in found.items():
        if not torch.equal(value, again[name]) and value.equal(value):
            return _failed(case, name, "differs from one call to the next")
        if value.shape != exact[name].shape:
            return _failed(case, name, f"has the shape {list(value.shape)}, expected {list(exact[name].shape)}")
        if rounded is not None and value.dtype != rounded[name].dtype:
            return _failed(case, name, f"is {value.dtype}, expected {rounded[name].dtype}")
        error = relative_error(value, exact[name])
        if rounded is not None and value.is_floating_point():
            allowed = allowed_error(rounded[name], exact[name], case.dtype)
        else:
            allowed = TOLERANCES[value.dtype] if value.is_floating_point() else 0.0
        if not error <= allowed:
            reason = f"{name}: error {error:.2g}, allowed {allowed:.2g}"
            return Verdict(
                op=case.op, shapes=case.shapes, passed=False, error=error, allowed=allowed, result=name, reason=reason
            )
        if worst.error is None or error * worst.allowed > worst.error * allowed:
            worst = Verdict(op=case.op, shapes=case.shapes, passed=True, error=error, allowed=allowed, result=name)
    return worst


def judge_all(ops: Iterable[str], cases: Callable[[str], Iterator[Case]], kernels: str) -> list[Verdict]:
    """The verdicts on all cases of `ops`, in this process, which runs no other thread; what a case raises is a verdict
    against its op.

    cases: gives those of an op. The global random numbers go on afterwards as if nothing had been judged.
    """
    verdicts = []
    with torch.random.fork_rng(devices=[]):
        for op in ops:
            torch.manual_seed(1)
            for case in cases(op):
                try:
                    verdicts.append(judge(case, kernels))
                except Exception as error:  # whatever its type, the kernel has not given the result
                    verdicts.append(raised(case, error))
    return verdicts


def raised(case: Case, error: Exception) -> Verdict:
    """The verdict where computing the case has raised `error`."""
    reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:_MOST_REASON]
    return Verdict(op=case.op, shapes=case.shapes, passed=False, reason=reason)


def _failed(case: Case, result: str, problem: str) -> Verdict:
    return Verdict(op=case.op, shapes=case.shapes, passed=False, result=result, reason=f"{result} {problem}")


def time_case(case: Case, device: torch.device) -> tuple[float, float | None]:
    """Seconds of one call by the kernels, the median, and the share of the device's limit, None where none is known.

    On a GPU the call is replayed as a CUDA graph, with a cold cache; interpreted kernels have no limit to be held to.
    """
    if case.timed is None:
        raise ValueError(f"{case.name} is not timed")
    with using_kernels("triton"):
        if device.type == "cpu":
            start = time.perf_counter()
            case.timed()
            return time.perf_counter() - start, None
        seconds = time_rounds(captured(case.timed, device), device, rounds=_ROUNDS).median
    return seconds, case.work.floor(measure_limits(device)) / seconds if case.work else None
