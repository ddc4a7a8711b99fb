"""Compile what training steps launch, for one target, and judge it: python -m bench.resources.compiled TARGET MODEL...

Launches are compiled instead of launched. It prints one kernel a line, as JSON, and is what `python -m bench.resources`
runs: in a process of its own, since the compiler's target, and the version of Triton, are the process's.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bench.resources.assembly import amd_widths, matrix_instructions, ptx_widths, ptxas_warnings, widest
from bench.resources.steps import steps
from bench.resources.targets import TARGETS, Target
from concord.kernels.dispatch import using_kernels

_PRODUCT_MODULES = (
    "concord.kernels.attention.mixed_kernels",
    "concord.kernels.attention.short_kernels",
    "concord.kernels.attention.tiled_kernels",
    "concord.kernels.task_products_kernels",
    "concord.kernels.linear_cross_entropy_kernels",
)
# Kernels whose time is that of whole vectors that they read, or write: a thread moves as much at once as it can. Others
# gather bytes, ids and rows of tiles, add up partial sums, or compute with single numbers.
_READ_WHOLE = (
    *("column_sums", "combine_adamw", "dropout", "embedding_forward", "gelu", "gram_products", "gram_tiles"),
    *("layer_norm", "tensor_products", "tensor_tiles"),
)
_OF_PAIRS = ("gram_products", "tensor_products")
_WRITE_WHOLE = ("clear_tables", "combine_adamw", "dropout", "embedding_forward", "gelu", "layer_norm")
# A product in Triton's own form, in which loops that are to be unrolled are, and pipelines are not yet built: one in a
# loop stands there once.
_PRODUCT = re.compile(r"\btt\.dot [^\n]*?: tensor<(\d+)x(\d+)x([a-z]\w*)> \* tensor<(\d+)x(\d+)x([a-z]\w*)> ->")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Attributes:
        triton: the version that compiled it.
        target: the GPU's name in `targets`.
        kernel: its name.
        used_by: the step that launches it.
        registers: a thread's.
        shared: bytes of shared memory of a program.
        spills: bytes a thread.
        matrix: the matrix instruction that it multiplies by, or "".
        load: bytes of a thread's widest load of global memory.
        store: bytes of its widest store.
        programs: how many a multiprocessor holds at once; 0 where that is not counted.
        faults: in words.
    """

    triton: str
    target: str
    kernel: str
    used_by: str
    registers: int
    shared: int
    spills: int
    matrix: str
    load: int
    store: int
    programs: int
    faults: tuple[str, ...]

    def line(self) -> str:
        """The kernel's line in the report."""
        text = (
            f"{self.triton:<6} {self.target:<7} {self.kernel:<44} {self.used_by:<34} {self.registers:>4} registers "
            f"{self.shared:>7} bytes shared {self.spills:>4} bytes spilled "
            f"{self.load:>3}/{self.store:<2} bytes at once {self.programs:>3} programs  {self.matrix or '-'}"
        )
        return text + "".join(f"  FAULT: {fault}" for fault in self.faults)


class _AheadOfTime:
    """Stands where the driver of a GPU would, for compilers that only ask which GPU it is."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target.target

    def get_current_device(self) -> str:
        # Compiled kernels are cached by device.
        return self._target.name

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def compiling(target: Target, found: Callable[[JITFunction, Any], None]) -> Iterator[None]:
    """Within this context a launch compiles for `target` and hands kernel and result, or its error, to `found`."""
    launch = JITFunction.run

    def compile_only(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if self.module in _PRODUCT_MODULES and not target.products:
            return
        try:
            compiled = launch(self, *arguments, grid=grid, warmup=True, **options)
        except Exception as error:  # whatever the compiler raises is the finding
            compiled = error
        found(self, compiled)

    JITFunction.run = compile_only
    driver.set_active(_AheadOfTime(target))
    try:
        yield
    finally:
        JITFunction.run = launch


def measure(target: Target, models: Sequence[str]) -> Iterator[Resources]:
    """What every kernel of the training steps of `models` takes on `target`, each compiled variant once."""
    seen = set()
    fresh: list[Resources] = []

    def found(function: JITFunction, compiled: Any) -> None:
        name = function.__name__.strip("_")
        key = (name, str(compiled) if isinstance(compiled, Exception) else compiled.hash)
        if key not in seen:
            seen.add(key)
            fresh.append(judge(target, name, str(step), step.dtype, compiled))

    with using_kernels("triton"), compiling(target, found):
        for step in steps(target, models):
            step.launch()
            yield from fresh
            fresh.clear()


def half_products(ttir: str) -> list[tuple[int, int, int]]:
    """The m, n and k of each product of 16-bit operands in a kernel's code, [m, k] times [k, n].

    ttir: the kernel in Triton's own form. ValueError where there is a product that is none of two matrices.
    """
    found = _PRODUCT.findall(ttir)
    if len(found) != len(re.findall(r"\btt\.dot", ttir)):
        raise ValueError("a product that is none of two matrices")
    return [(int(m), int(n), int(k)) for m, k, dtype, _, n, _ in found if dtype in ("f16", "bf16")]


def judge(target: Target, name: str, used_by: str, dtype: torch.dtype, compiled: Any) -> Resources:
    """What a compiled kernel takes on `target`, and its faults; `compiled` may be the error that the compiler raised.

    name, used_by: as the report shows them; dtype: of the step's activations.
    """
    if isinstance(compiled, Exception):
        reason = f"does not compile: {type(compiled).__name__} {str(compiled).strip().splitlines()[-1:]}"
        return Resources(triton.__version__, target.name, name, used_by, 0, 0, 0, "", 0, 0, 0, (reason,))
    amd = target.target.backend == "hip"
    text, ttir = compiled.asm["amdgcn" if amd else "ptx"], compiled.asm["ttir"]
    registers, spills = _amd_usage(text) if amd else _cuda_usage(compiled.asm["cubin"])
    shared = compiled.metadata.shared
    found = matrix_instructions(text, target.matrix)
    load, store = (widest(widths) for widths in (amd_widths if amd else ptx_widths)(text))
    faults = [f"the compiler warns: {line}" for line in ([] if amd else ptxas_warnings(text, target.target.arch))]
    if spills:
        faults.append(f"spills {spills} bytes")
    if shared > target.shared:
        faults.append(f"{shared} bytes of shared memory, the target has {target.shared}")
    if "tt.dot" in ttir and dtype != torch.float32 and not found:
        faults.append("products without matrix instructions")
    if len(found) > 1:
        faults.append(f"products by {' and '.join(found)}: the latter are those of an earlier generation")
    for names, width, verb in ((_READ_WHOLE, load, "loads"), (_WRITE_WHOLE, store, "stores")):
        # Without matrix units pairs of many tasks are kept a column a thread, whatever that reads at once.
        judged = name.startswith(names) and (target.products or not name.startswith(_OF_PAIRS))
        if judged and width < target.width:
            faults.append(f"{verb} {width} bytes a thread at once, expected {target.width}")
    products = half_products(ttir)
    shortest = min((min(sides) for sides in products), default=target.shortest_side)
    if len(products) > 1 and shortest < target.shortest_side:
        faults.append(
            f"{len(products)} products in 16 bits with a side of {shortest}: Triton miscompiles those under "
            f"{target.shortest_side} on {target.name}"
        )
    programs = programs_at_once(target, registers, shared, compiled.metadata.num_warps)
    matrix = found[0] if found else ""
    return Resources(
        triton.__version__,
        target.name,
        name,
        used_by,
        registers,
        shared,
        spills,
        matrix,
        load,
        store,
        programs,
        tuple(faults),
    )


def programs_at_once(target: Target, registers: int, shared: int, warps: int) -> int:
    """How many programs of a kernel a multiprocessor holds at once; 0 where the target does not say.

    Registers are given to warps by 8 a thread, and shared memory comes with a kilobyte of the system's own.
    """
    if not target.threads:
        return 0
    threads = 32 * warps
    limits = [target.programs_at_most, target.threads // threads, target.shared_of_all // (shared + 1024)]
    return min(*limits, 65536 // (max(8, -(-registers // 8) * 8) * threads))


def _cuda_usage(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes of its stack, which is where spills go."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = dict(
        field.split(":")[:2] for line in report.splitlines() if "REG:" in line for field in line.split() if ":" in field
    )
    return int(values["REG"]), int(values["STACK"]) + int(values["LOCAL"])


def _amd_usage(assembly: str) -> tuple[int, int]:
    """Vector registers a thread, and bytes of its scratch memory."""
    values = {}
    for line in assembly.splitlines():
        name, _, value = line.strip().partition(":")
        if name in (".vgpr_count", ".private_segment_fixed_size") and value.strip().isdigit():
            values[name] = int(value)
    return values[".vgpr_count"], values[".private_segment_fixed_size"]


def main(arguments: Sequence[str]) -> None:
    """Print what each kernel takes, as JSON: the target's name, then the models'."""
    torch.set_num_threads(1)
    target, *models = arguments
    for resources in measure(TARGETS[target], models):
        print(json.dumps(asdict(resources)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
