"""Compile every kernel ahead of time, with no GPU, and judge what it takes: python -m bench.resources [--targets ...].

Training steps run on meta tensors, which have shapes and no memory; their launches are compiled for each target instead
of launched, so that what is judged is what a step launches. Prints one line a compiled kernel: registers
a thread, shared memory a program, spills, and the matrix instructions found. Exits with 1 where a kernel does not
compile, spills, or exceeds the target's shared memory.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from concord.bert.batch import TaskTokens, pack
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.kernels.dispatch import interpreted, using_kernels
from concord.kernels.dropout import DropoutStream
from concord.kernels.gather import Corpus, gather_tokens
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.layout.rows import TaskRows
from concord.kernels.linear_cross_entropy import linear_cross_entropy
from concord.kernels.surgery.multi_tensor import combine_tensors, gram_of_tensors
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.steps.optimizer import SurgeryOptimizer

_KIB = 1024


@dataclass(frozen=True)
class Target:
    """A GPU architecture: its name, Triton's target, bytes of shared memory a program may use.

    half: the 16-bit dtype that mixed precision takes there; products: whether attention and matrix products are
    Triton's there; matrix: the matrix instructions to look for.
    """

    name: str
    target: GPUTarget
    shared: int
    half: torch.dtype = torch.bfloat16
    products: bool = True
    matrix: tuple[str, ...] = ("mma.sync",)


TARGETS = {
    target.name: target
    for target in (
        Target("sm_75", GPUTarget("cuda", 75, 32), 64 * _KIB, torch.float16, products=False),
        Target("sm_80", GPUTarget("cuda", 80, 32), 163 * _KIB),
        Target("sm_90", GPUTarget("cuda", 90, 32), 227 * _KIB, matrix=("wgmma.mma_async", "mma.sync")),
        Target("sm_100", GPUTarget("cuda", 100, 32), 227 * _KIB, matrix=("tcgen05.mma", "mma.sync")),
        Target("gfx942", GPUTarget("hip", "gfx942", 64), 64 * _KIB, matrix=("v_mfma",)),
    )
}
_PRODUCT_MODULES = (
    "concord.kernels.attention.short",
    "concord.kernels.attention.tiled",
    "concord.kernels.task_products",
    "concord.kernels.linear_cross_entropy",
)

# Hidden size, heads, inner size. Two layers launch what twelve do: an inner one, and the last one's [CLS] form.
_MODELS = {
    "MiniLM": (384, 12, 1536),
    "BERT-base": (768, 12, 3072),
    "BERT-large": (1024, 16, 4096),
    "heads-of-128": (768, 6, 3072),
}
_VOCABULARY = 30522
_TASKS = (3, 8, 16)
# With every number of tasks, clipping and a loss scale; and what else a run may ask for, with three tasks alone, since
# it changes little of a kernel: coefficients from elsewhere, norms that span the heads, no clipping, no loss scale.
_SURGERIES = (("none", False), ("pcgrad", False), ("gradvac", False), ("pcgrad", True), ("gradvac", True))
_OTHER_SURGERIES = (
    SurgerySettings(method="given", max_norm=1.0, scaling=True),
    SurgerySettings(method="given", by_block=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="given", private_norms=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="pcgrad", private_norms=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="gradvac", private_norms=True, max_norm=1.0, scaling=True),
    SurgerySettings(method="pcgrad", max_norm=0.0, scaling=True),
    SurgerySettings(method="pcgrad", max_norm=1.0, scaling=False),
)
_LENGTHS = {"short": (30, 12, 25, 40, 9, 33), "tiny": (5, 3, 16, 8, 9, 7), "long": (512, 100, 300, 60, 17, 128)}


@dataclass(frozen=True)
class Step:
    """A training step: of `model`, at sequence `lengths`, in `dtype`, with or without dropout."""

    model: str
    lengths: str
    dtype: torch.dtype
    dropout: bool

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.").replace("float", "fp").replace("bfp", "bf")
        return f"{self.model} {self.lengths} {dtype}" + ("" if self.dropout else " no dropout")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes: per thread and program, in registers and bytes; `faults` in words."""

    target: str
    kernel: str
    used_by: str
    registers: int
    shared: int
    spills: int
    matrix: str
    faults: tuple[str, ...]

    def line(self) -> str:
        """The kernel's line in the report."""
        text = (
            f"{self.target:<7} {self.kernel:<44} {self.used_by:<34} {self.registers:>4} registers "
            f"{self.shared:>7} bytes shared {self.spills:>4} bytes spilled  {self.matrix or '-'}"
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
def _compiling(target: Target, found: Callable[[JITFunction, Any], None]) -> Iterator[None]:
    """Within this context a launch compiles for `target` and hands kernel and result, or its error, to `found`."""
    launch = JITFunction.run

    def compile_only(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if self.module in _PRODUCT_MODULES and not target.products:
            return
        try:
            found(self, launch(self, *arguments, grid=grid, warmup=True, **options))
        except Exception as error:  # whatever the compiler raises is the finding
            found(self, error)

    JITFunction.run = compile_only
    driver.set_active(_AheadOfTime(target))
    try:
        yield
    finally:
        JITFunction.run = launch


def steps(target: Target, models: Sequence[str]) -> Iterator[Step]:
    """The steps that between them launch every variant of every kernel of forward and backward.

    Without dropout only where a head size or a tile is new; models that differ in nothing but that share the rest.
    """
    for dtype in (target.half, torch.float32):
        for model in models:
            for lengths in ("short", "long"):
                yield Step(model, lengths, dtype, dropout=True)
        for model in sorted({"MiniLM", "BERT-base"}.intersection(models)):
            yield Step(model, "tiny", dtype, dropout=True)
            for lengths in ("short", "long"):
                yield Step(model, lengths, dtype, dropout=False)


def launch(step: Step) -> None:
    """Launch the kernels of a batch's gathering, of forward and backward of three tasks, and of a language-model loss,
    on meta tensors."""
    hidden, heads, inner = _MODELS[step.model]
    rate = 0.1 if step.dropout else 0.0
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=512,
        hidden_dropout_prob=rate,
        attention_probs_dropout_prob=rate,
    )
    with torch.device("meta"):
        encoder = Encoder(config)
        named = dict(encoder.named_parameters())
        FlatParameters(named, encoder.blocks(), tasks=3, compute_dtype=step.dtype, gradient_dtype=step.dtype)
        seed = torch.zeros((), dtype=torch.int64)
        masked = torch.empty(400, hidden, dtype=step.dtype, requires_grad=True)
        bias = torch.empty(_VOCABULARY, requires_grad=True)
        targets = torch.empty(400, dtype=torch.int32)
        offsets = torch.empty(2, dtype=torch.int32)
        word_rows = TaskRows(offsets=offsets, bounds=(0, 400))
        corpus = Corpus(
            ids=torch.empty(9000, dtype=torch.int32),
            segments=torch.empty(9000, dtype=torch.uint8),
            cu_seqlens=torch.empty(301, dtype=torch.int64),
        )
        gather_tokens(corpus, torch.empty(96, dtype=torch.int64), torch.empty(4, dtype=torch.int32), 2816)
    task_lengths = np.split(np.array(_LENGTHS[step.lengths]), 3)
    tasks = [
        TaskTokens(ids=np.zeros(own.sum(), int), segments=np.zeros(own.sum(), int), lengths=own) for own in task_lengths
    ]
    encoder(pack(tasks, "meta"), DropoutStream(seed) if step.dropout else None).pooled.sum().backward()
    words = encoder.embeddings.words.detach().requires_grad_()
    linear_cross_entropy(masked, words, bias, targets, word_rows).backward()


def launch_surgery(tasks: int, dtype: torch.dtype) -> None:
    """Launch the kernels of an optimizer step of `tasks` tasks with task gradients of `dtype`, with each surgery."""
    names = [f"task {task}" for task in range(tasks)]
    with torch.device("meta"):
        shared = {name: nn.Parameter(torch.empty(2000)) for name in ("a", "b")}
        private = {name: nn.Parameter(torch.empty(300)) for name in names}
        flat = FlatParameters(shared, {"a": "a", "b": "b"}, tasks=tasks, compute_dtype=dtype, gradient_dtype=dtype)
        heads = FlatParameters(private, dict(zip(names, names, strict=True)), tasks=1, deposit=False)
        seed, factor = torch.zeros((), dtype=torch.int64), torch.zeros(())
    surgeries = [
        SurgerySettings(method=method, by_block=by_block, max_norm=1.0, scaling=True) for method, by_block in _SURGERIES
    ]
    for settings in (*surgeries, *(_OTHER_SURGERIES if tasks == _TASKS[0] else ())):
        optimizer = SurgeryOptimizer(
            flat,
            heads,
            names,
            settings=settings,
            shared_rates=1e-4,
            private_rates=1e-3,
            weighting=(lambda grams: grams[:, 0]) if settings.method == "given" else None,
        )
        optimizer.step(seed=seed, rate_factor=factor)
    apart = [[torch.empty(size, dtype=dtype, device="meta") for _ in range(tasks)] for size in (2000, 300)]
    gram_of_tensors(apart)
    combine_tensors(apart, torch.empty(2, tasks, device="meta"))


def measure(target: Target, models: Sequence[str]) -> list[Resources]:
    """What every kernel of the training steps takes on `target`, each compiled variant once."""
    results: dict[tuple[str, str], Resources] = {}

    def found(function: JITFunction, compiled: Any) -> None:
        name = f"{function.module.removeprefix('kernels.')}.{function.__name__.strip('_')}"
        key = (name, str(compiled) if isinstance(compiled, Exception) else compiled.hash)
        if key not in results:
            results[key] = _judge(target, name, step, compiled)

    with using_kernels("triton"), _compiling(target, found):
        for step in steps(target, models):
            launch(step)
        for tasks, dtype in ((3, torch.float32), *((tasks, target.half) for tasks in _TASKS)):
            step = Step(f"{tasks} tasks", "optimizer", dtype, dropout=True)
            launch_surgery(tasks, dtype)
    return list(results.values())


def _measure_named(name: str, models: Sequence[str]) -> list[Resources]:
    """`measure` in a process of its own, which a target's driver needs anyway."""
    torch.set_num_threads(1)
    return measure(TARGETS[name], models)


def _judge(target: Target, name: str, step: Step, compiled: Any) -> Resources:
    if isinstance(compiled, Exception):
        reason = f"does not compile: {type(compiled).__name__} {str(compiled).strip().splitlines()[-1:]}"
        return Resources(target.name, name, str(step), 0, 0, 0, "", (reason,))
    amd = target.target.backend == "hip"
    text = compiled.asm["amdgcn" if amd else "ptx"]
    registers, spills = _amd_usage(text) if amd else _cuda_usage(compiled.asm["cubin"])
    shared = compiled.metadata.shared
    matrix = next((instruction for instruction in target.matrix if instruction in text), "")
    faults = []
    if spills:
        faults.append(f"spills {spills} bytes")
    if shared > target.shared:
        faults.append(f"{shared} bytes of shared memory, the target has {target.shared}")
    if "tt.dot" in compiled.asm["ttir"] and step.dtype != torch.float32 and not matrix:
        faults.append("products without matrix instructions")
    return Resources(target.name, name, str(step), registers, shared, spills, matrix, tuple(faults))


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0, or 1 where a kernel is at fault. InputError for bad flags and interpreted kernels."""
    parser = OneLineParser(prog="python -m bench.resources", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS), help="architectures (default all)"
    )
    parser.add_argument(
        "--models", nargs="+", default=list(_MODELS), choices=list(_MODELS), help="shapes (default all)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="targets compiled at once (default one a core)"
    )
    given = parser.parse(arguments)
    if interpreted():
        raise InputError("TRITON_INTERPRET is set, and interpreted kernels are not compiled; unset it")
    at_fault = count = 0
    # Fresh processes: a fork would inherit torch's threads.
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        for found in pool.map(_measure_named, given.targets, [given.models] * len(given.targets)):
            for resources in found:
                print(resources.line(), flush=True)
                count += 1
                at_fault += bool(resources.faults)
    print(f"{count} kernels compiled, {at_fault} at fault")
    return 1 if at_fault else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
