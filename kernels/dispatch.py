"""Which implementation an op takes: its Triton kernels, or its torch reference."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor

CHOICES = ("auto", "triton", "torch")
_MATRIX_CAPABILITY = (8, 0)  # below it Triton emits no matrix instructions and spills
_choice = "auto"


def set_kernels(choice: str) -> None:
    """Choose for the whole process: auto (Triton for CUDA tensors, torch for others), triton, or torch."""
    global _choice
    if choice not in CHOICES:
        raise ValueError(f"kernels {choice!r}: expected one of {', '.join(CHOICES)}")
    _choice = choice


@contextmanager
def using_kernels(choice: str) -> Iterator[None]:
    """`set_kernels` for a block."""
    before = _choice
    set_kernels(choice)
    try:
        yield
    finally:
        set_kernels(before)


def interpreted() -> bool:
    """Whether this process interprets Triton kernels on the CPU (TRITON_INTERPRET=1 when it started)."""
    return bool(triton.knobs.runtime.interpret)


def uses_triton(tensor: Tensor) -> bool:
    """Whether an op on `tensor` takes its Triton kernels. fp64, which only checks use, always takes the reference."""
    if tensor.dtype == torch.float64:
        return False
    return tensor.is_cuda if _choice == "auto" else _choice == "triton"


def uses_triton_products(tensor: Tensor) -> bool:
    """The same for kernels made of matrix products: on GPUs before sm_80 these stay with torch."""
    if not uses_triton(tensor):
        return False
    return not tensor.is_cuda or torch.cuda.get_device_capability(tensor.device) >= _MATRIX_CAPABILITY


def architecture(device: torch.device) -> str | int:
    """The key of tables by architecture: the capability's major number, or "hip"; 9 for interpreted kernels.

    Triton's driver is asked, and not the device, so that compiling ahead of time meets the tables of its target.
    """
    if device.type == "cpu":
        return 9
    target = triton.runtime.driver.active.get_current_target()
    return "hip" if target.backend == "hip" else target.arch // 10


def for_architecture(table: dict[str | int, Any], device: torch.device) -> Any:
    """The entry for the architecture of `device`, or what any matrix unit with 99 KB of shared memory runs."""
    return table.get(architecture(device), table[8])


def describe_kernels(device: torch.device) -> str:
    """What ops on `device` take, for the run's first lines."""
    if device.type == "cuda" and _choice != "torch":
        if torch.cuda.get_device_capability(device) < _MATRIX_CAPABILITY:
            return "triton; torch for attention and for what multiplies matrices (this GPU is older than sm_80)"
        return "triton"
    if _choice == "triton":
        return "triton, interpreted (slow: for checks)"
    return "torch (reference expressions" + ("; Triton needs a CUDA device)" if _choice == "auto" else ", as asked)")


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
