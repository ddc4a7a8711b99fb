"""Which implementation an op takes: its Triton kernels, the native ones of a CPU, or its torch reference.

Triton is not imported here, nor by any module but those called `*_kernels`, which are imported when they first launch:
without Triton, as on macOS and Windows, everything else works on the torch references.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concord.kernels.ops import CHOICES, OPS
from concord.kernels.threads import Choice

_NATIVE_DTYPES = (torch.float32, torch.bfloat16)
NO_TRITON = "Triton is not installed here"
"""Why no op takes its kernels where `has_triton` is False."""
_MATRIX_CAPABILITY = (8, 0)  # below it Triton emits no matrix instructions and spills


def _is_installed(package: str) -> bool:
    """Whether an import of `package` would find it, as far as can be said without it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a finder that refuses it, or a stand-in that says nothing of itself
        return False


_has_triton = _is_installed("triton")  # asked once: every op of every step wants to know


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What is chosen: one of `CHOICES`, and the ops that take their torch reference under any of these."""

    kernels: str = "auto"
    from_torch: frozenset[str] = frozenset()


_choice = Choice(_Chosen())


def set_kernels(kernels: str, from_torch: Iterable[str] = ()) -> None:
    """Choose auto (Triton for CUDA tensors, torch for others), triton, native, or torch, for the whole process, or
    within `concord.kernels.threads.own_choices` for this thread.

    native: the CPU's native kernels, where an op has some; `concord.kernels.native.build` has loaded them.
    from_torch: ops that take their torch reference in any case, since their kernels have failed a check.
    ValueError where `kernels` or an op is not known.
    """
    if kernels not in CHOICES:
        raise ValueError(f"kernels {kernels!r}: expected one of {', '.join(CHOICES)}")
    for op in from_torch:
        if op not in OPS:
            raise ValueError(f"op {op!r}: expected one of {', '.join(OPS)}")
    _choice.choose(_Chosen(kernels=kernels, from_torch=frozenset(from_torch)))


@contextmanager
def using_kernels(kernels: str, from_torch: Iterable[str] = ()) -> Iterator[None]:
    """`set_kernels` for a block."""
    before = _choice.value
    set_kernels(kernels, from_torch)
    try:
        yield
    finally:
        _choice.choose(before)


def chosen_kernels() -> str:
    """What is chosen: one of `CHOICES`."""
    return _choice.value.kernels


def has_triton() -> bool:
    """Whether Triton is installed; it is not imported to find out."""
    return _has_triton


def interpreted() -> bool:
    """Whether this process interprets Triton kernels on the CPU (TRITON_INTERPRET=1 when it started)."""
    if not has_triton():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def launches_triton(device: torch.device) -> bool:
    """Whether ops on `device` take Triton kernels at all; `uses_triton` says of which it is true."""
    if _choice.value.kernels == "auto":
        return device.type == "cuda" and has_triton()
    return _choice.value.kernels == "triton"


def uses_triton(op: str, tensor: Tensor) -> bool:
    """Whether `op`, a name in `OPS`, takes its kernels on `tensor`; never in fp64, which checks alone use."""
    return tensor.dtype != torch.float64 and takes_triton(op, tensor.device)


def takes_triton(op: str, device: torch.device) -> bool:
    """Whether `op`, a name in `OPS`, takes its kernels on `device`; KeyError where the name is not known."""
    entry = OPS[op]
    if op in _choice.value.from_torch or not launches_triton(device):
        return False
    old = entry.products and device.type == "cuda" and torch.cuda.get_device_capability(device) < _MATRIX_CAPABILITY
    return not old


def launches_native(device: torch.device) -> bool:
    """Whether ops on `device` take native kernels at all; `takes_native` says of which it is true."""
    return _choice.value.kernels == "native" and device.type == "cpu"


def takes_native(op: str, tensor: Tensor) -> bool:
    """Whether `op`, a name in `OPS`, takes its native kernels on `tensor`; KeyError where the name is not known."""
    here = OPS[op].native and op not in _choice.value.from_torch and launches_native(tensor.device)
    return here and tensor.dtype in _NATIVE_DTYPES


def launchers(op: str, tensor: Tensor, triton: Callable[[], Any]) -> Any | None:
    """What holds the launchers of `op` for `tensor`: Triton's module, the native library, or None: torch's reference.

    triton: imports the module of the op's Triton launchers, by a statement: torch.compile follows no other way.
    """
    if takes_native(op, tensor):
        return torch.ops.concord_native
    return triton() if uses_triton(op, tensor) else None


def needs_host_lengths(device: torch.device) -> bool:
    """Whether some op on `device` takes a reference that needs a batch's lengths on the host.

    Such batches are packed there; without them the host need not know where sequences and tasks begin.
    """
    return any(entry.reads_lengths and not takes_triton(op, device) for op, entry in OPS.items())


def all_from_triton(device: torch.device) -> bool:
    """Whether every op on `device` takes its kernels. References may read numbers on the host, kernels never do."""
    return all(takes_triton(op, device) for op in OPS)


def architecture(device: torch.device) -> str | int:
    """The key of tables by architecture: the capability's major number, or "hip"; 9 for interpreted kernels.

    Triton's driver is asked, and not the device, so that compiling ahead of time meets the tables of its target.
    """
    if device.type == "cpu":
        return 9
    import triton

    target = triton.runtime.driver.active.get_current_target()
    return "hip" if target.backend == "hip" else target.arch // 10


def for_architecture(table: dict[str | int, Any], device: torch.device) -> Any:
    """The entry for the architecture of `device`, or what any matrix unit with 99 KB of shared memory runs."""
    return table.get(architecture(device), table[8])


def describe_kernels(device: torch.device) -> str:
    """What ops on `device` take, in words, but for those that `set_kernels` was told to take from torch."""
    if _choice.value.kernels == "auto" and not has_triton():
        return f"torch: {NO_TRITON}"
    if _choice.value.kernels == "native":
        return f"native (C++ for {torch.backends.cpu.get_cpu_capability()}; torch for what has no native kernels)"
    if not launches_triton(device):
        why = "; Triton needs a CUDA device" if _choice.value.kernels == "auto" else ", as asked"
        return f"torch (reference expressions{why})"
    if device.type == "cpu":
        return "triton, interpreted (slow: for checks)"
    if torch.cuda.get_device_capability(device) < _MATRIX_CAPABILITY:
        return "triton; torch for attention and for what multiplies matrices (this GPU is older than sm_80)"
    return "triton"


def launcher(fake: Callable[..., Any], mutates: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that launches kernels an operator of its own, which torch.compile can put into a graph.

    fake: the same arguments -> empty tensors like the results; mutates: the arguments that are written to. Arguments
    and results must be tensors, numbers, or optional tensors (arguments only), the first argument a tensor. Outside of
    torch.compile, which sees to the device itself, the function is called directly, on the device of its first
    argument: that saves the operator's overhead.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        module = inspect.getmodule(function)
        room = module.__name__.rpartition(".")[2] if module else "kernels"
        name = f"concord::{room}_{function.__name__.strip('_')}"
        operator = torch.library.custom_op(name, function, mutates_args=mutates)
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            if torch.compiler.is_compiling():
                return operator(*arguments)
            with torch.cuda.device_of(arguments[0]):
                return function(*arguments)

        return call

    return register
