"""What a training step asks of a GPU, counted with no GPU: python -m bench.counted_steps.

Every launch of a kernel and every operation of torch's is counted. The step runs on meta tensors, which have shapes and
no memory; launches of Triton's kernels are recorded instead of compiled. It takes a process that does not interpret
Triton.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bench.lengths import read_lengths, splits_of_lengths
from bench.step_cases import MODELS, concord_config
from concord.bert.batch import PackedBatch
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.heads import build_heads
from concord.bert.multitask import MultitaskModel
from concord.kernels.dispatch import using_kernels
from concord.kernels.gather import Corpus, gather_tokens
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import Sequences
from concord.kernels.surgery.rules import MOST_TASKS
from concord.train.command import run_command
from concord.train.data.batches import LabelledBatch
from concord.train.data.device_batches import DeviceBatches
from concord.train.data.sampler import JointSampler
from concord.train.data.tasks import BUILT_IN_TASKS
from concord.train.flags import OneLineParser
from concord.train.objectives.objectives import build_objectives, head_specs
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.step import TrainingStep
from concord.train.steps.weightings import surgery_settings

ROOT = Path(__file__).resolve().parent.parent
GATHERING, FORWARD, HEADS, BACKWARD, OPTIMIZER = "gathering", "encoder forward", "heads", "backward", "optimizer"
PHASES = (GATHERING, FORWARD, HEADS, BACKWARD, OPTIMIZER)
# What gives another view of the same memory, or memory alone, launches nothing.
_VIEWS = """
_local_scalar_dense _reshape_alias _unsafe_view alias as_strided detach diagonal empty empty_like empty_strided expand
is_same_size lift_fresh narrow new_empty new_empty_strided permute promote_types reshape resize_ select set_ slice split
split_with_sizes squeeze t transpose unbind unfold unsqueeze view
"""
_NO_LAUNCH = frozenset(_VIEWS.split())
_TRAINED = ("sst", "paraphrase", "sts")  # classes, yes or no, and scores: the tasks are these, in turn
_CORPUS_TOKENS, _CORPUS_SEQUENCES = 9000, 300


@dataclass(frozen=True)
class Operation:
    """Something that the device is asked for.

    Attributes:
        phase: the part of the step, one of `PHASES`.
        name: of the Triton kernel, or of torch's operator with its namespace.
        place: the line of the project that asked for it, FILE:LINE, or "autograd".
        bytes: of all tensors that it is given and that it gives, each once.
        shapes: of the same tensors.
        grid: programs of a Triton kernel, () of torch's.
    """

    phase: str
    name: str
    place: str
    bytes: int
    shapes: tuple[tuple[int, ...], ...]
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class CountedStep:
    """A step to be counted: bf16, PCGrad, clipping, dropout.

    Attributes:
        model: one of `bench.step_cases.MODELS`.
        tasks: how many; classes, yes or no, and scores in turn.
        tokens: rows of the packed batch.
        longest: tokens that no sequence exceeds.
        batch: examples a task.
    """

    model: str
    tasks: int = 3
    tokens: int = 2816
    longest: int = 128
    batch: int = 32

    def operations(self) -> list[Operation]:
        """Every operation of a step in its order, its batch's gathering included."""
        return self._recorded().found

    def compilations(self) -> set[tuple[str, str]]:
        """Each kernel's name with what it would be compiled for: dtypes, constants, what is known of numbers."""
        return self._recorded().compilations

    def _recorded(self) -> "_Recorder":
        recorder = _Recorder()
        with _launches_recorded(recorder):
            step, batch = self._built(recorder)
            with torch.device("meta"):
                labels = {name: torch.empty(self.batch) for name in self._names}
                scalars = [torch.zeros((), dtype=dtype) for dtype in (torch.int64, torch.float32, torch.float32)]
            with torch.device("meta"), using_kernels("triton"), recorder:
                packed = batch()
                recorder.phase = FORWARD
                step(
                    [LabelledBatch(packed, labels, None)],
                    dict.fromkeys(labels, self.batch),
                    **dict(zip(("seed", "rate_factor", "epoch"), scalars, strict=True)),
                )
        return recorder

    @property
    def _names(self) -> list[str]:
        return [f"task{number}" for number in range(self.tasks)]

    def _built(self, recorder: "_Recorder") -> tuple[TrainingStep, Callable[[], PackedBatch]]:
        """The step, and what gathers its batch."""
        known = {task.name: task for task in BUILT_IN_TASKS}
        tasks = [replace(known[_TRAINED[number % len(_TRAINED)]], name=name) for number, name in enumerate(self._names)]
        config = concord_config(self._names, self.batch, surgery="pcgrad", amp="bf16")
        encodings, bert = config.data.pair_encoding, MODELS[self.model]
        heads = build_heads(head_specs(config.objectives, encodings, tasks, bert.hidden_size), seed=1)
        heads = {name: head.to("meta") for name, head in heads.items()}
        with torch.device("meta"):
            model = MultitaskModel(Encoder(bert), heads, compute_dtype=torch.bfloat16, gradient_dtype=torch.bfloat16)
            optimizer = SurgeryOptimizer(
                model.shared,
                model.private,
                self._names,
                settings=surgery_settings(config.surgery, config.optimizer, scaling=False),
                shared_rates=1e-4,
                private_rates=1e-3,
            )
            corpus = Corpus(
                ids=torch.empty(_CORPUS_TOKENS, dtype=torch.int32),
                segments=torch.empty(_CORPUS_TOKENS, dtype=torch.uint8),
                cu_seqlens=torch.empty(_CORPUS_SEQUENCES + 1, dtype=torch.int64),
            )
            numbers = torch.empty(self.batch * self.tasks, dtype=torch.int64)
            offsets = torch.empty(self.tasks + 1, dtype=torch.int32)
        recorder.begins(model, "pool", FORWARD, HEADS)
        recorder.begins(optimizer, "step", OPTIMIZER, OPTIMIZER)

        def batch() -> PackedBatch:
            gathered = gather_tokens(corpus, numbers, offsets, self.tokens)
            return PackedBatch(
                ids=gathered.ids,
                positions=gathered.positions,
                segments=gathered.segments,
                sequences=Sequences(gathered.cu_seqlens, gathered.first, self.longest),
                token_rows=TaskRows(offsets=gathered.token_offsets, bounds=None),
                sequence_rows=TaskRows(offsets=offsets, bounds=tuple(range(0, len(numbers) + 1, self.batch))),
            )

        objectives = build_objectives(config.objectives, encodings, tasks, dict.fromkeys(self._names, 1000))
        return TrainingStep(model, optimizer, objectives), batch


class _Recorder(TorchDispatchMode):
    """Records torch's operations while it is active, and what else it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = GATHERING
        self.found: list[Operation] = []
        self.compilations: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function.name().partition(".")[0]
        if name.partition("::")[2] not in _NO_LAUNCH:
            self.add(name, [arguments, options, result])
        return result

    def add(self, name: str, tensors: Any, grid: tuple[int, ...] = ()) -> None:
        """Record an operation on `tensors`, in any nesting."""
        once = {id(leaf): leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)}.values()
        size = sum(tensor.numel() * tensor.element_size() for tensor in once)
        phase = self.phase if torch._C._current_autograd_node() is None else BACKWARD
        shapes = tuple(tuple(tensor.shape) for tensor in once)
        self.found.append(Operation(phase, name, _place(), size, shapes, grid))

    def begins(self, owner: Any, name: str, during: str, after: str) -> None:
        """Let the method `name` of `owner` say which phase is on."""
        method = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.phase = during
            result = method(*arguments, **options)
            self.phase = after
            return result

        setattr(owner, name, call)


class _Hopper:
    """Stands where the driver of an H200 would, for launchers that only ask which GPU it is."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _launches_recorded(recorder: _Recorder) -> Iterator[None]:
    """Within this context a launch of a Triton kernel is told to `recorder`, and nothing else."""
    launch, compile_for = JITFunction.run, JITFunction._do_compile

    def record(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        named = dict(zip(kernel.arg_names, arguments, strict=False)) | options
        programs = tuple(grid(named) if callable(grid) else grid)
        recorder.add(kernel.__name__, list(named.values()), programs)
        launch(kernel, *arguments, grid=grid, warmup=True, **options)

    def note(kernel: JITFunction, key: str, *rest: Any) -> None:
        recorder.compilations.add((kernel.__name__, key))

    JITFunction.run, JITFunction._do_compile = record, note
    driver.set_active(_Hopper())
    try:
        yield
    finally:
        JITFunction.run, JITFunction._do_compile = launch, compile_for


def _place() -> str:
    """The innermost line of the project outside of this file that is being executed."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != Path(__file__):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "autograd"


def shapes_of_the_course(batch: int = 32, epochs: int = 2) -> list[tuple[int, int]]:
    """Tokens and longest sequence of the batches that a run on the course data has, each pair once, in order."""
    splits = splits_of_lengths(read_lengths())
    batches = DeviceBatches(splits, torch.device("cpu"))
    sampler = JointSampler({task: len(split) for task, split in splits.items()}, batch_size=batch, accumulate=1, seed=1)
    shapes = [
        shape
        for epoch in range(epochs)
        for micro_batches in sampler.epoch(epoch)
        for shape in batches.plan(micro_batches)[0]
    ]
    return sorted({(shape.tokens, shape.max_length) for shape in shapes})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the operations of a step, counted by phase, kernel and line."""
    parser = OneLineParser(prog="python -m bench.counted_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="BERT-base", help="default BERT-base")
    parser.add_argument("--tasks", type=int, default=3, help="default 3")
    given = parser.parse(arguments)
    if not 1 <= given.tasks <= MOST_TASKS:
        raise InputError(f"--tasks {given.tasks}: expected 1 to {MOST_TASKS}")
    found = CountedStep(given.model, given.tasks).operations()
    for (phase, name, place), count in Counter((own.phase, own.name, own.place) for own in found).items():
        print(f"{count:>5}  {phase:<16} {name:<42} {place}")
    by_phase = Counter(own.phase for own in found)
    print(f"{len(found)} operations: " + ", ".join(f"{phase} {by_phase[phase]}" for phase in PHASES))


if __name__ == "__main__":
    sys.exit(run_command(main))
