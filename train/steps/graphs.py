"""Training steps on the device's own batches, each replayed as one CUDA graph once its shape has recurred.

All that a step reads from outside lies in one buffer: its seed, the factor of the learning rates, the epoch, and the
numbers of its examples. The host prepares them while the device computes, and waits only where it is
several steps ahead.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.tables import is_own
from concord.kernels.dispatch import all_from_triton, needs_host_lengths
from concord.kernels.graphs import capture
from concord.train.data.batches import LabelledBatch, whole_step
from concord.train.data.device_batches import BatchShape, DeviceBatches
from concord.train.data.sampler import MicroBatch
from concord.train.ranks.gathering import Others
from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT, Reporter
from concord.train.settings.parts import FineTuningConfig
from concord.train.settings.tables import RULES
from concord.train.steps.step import StepOutput, TrainingStep

_AHEAD = 8  # steps by which the host may be ahead of the device
_HEADER = 4  # seed, rate factor, epoch and a zero that aligns the examples' indices behind them


def choose_graphs(config: FineTuningConfig, device: torch.device, ranks: Ranks | None = None) -> tuple[bool, str]:
    """Resolve the flag --cuda-graphs: whether steps are captured, and why or why not.

    InputError where "on" was asked for in vain.
    """
    choice, losses = config.compute.cuda_graphs, config.objectives.losses.values()
    own = filter(is_own, [*chain.from_iterable(losses), *config.objectives.heads.values()])
    trained, obstacle = config.batches.trained, ""
    if device.type != "cuda":
        obstacle = "this is no CUDA device"
    elif ranks is not None:
        obstacle = "steps that several processes share are not captured"
    elif needs_host_lengths(device):
        obstacle = "the torch references need each batch's lengths on the host"
    elif not all_from_triton(device):
        obstacle = "a torch reference reads numbers on the host"
    elif config.model.pals:
        obstacle = "projected attention layers need each batch's lengths on the host"
    elif RULES.entry(config.surgery.rule).place == "host":
        obstacle = "this surgery's coefficients come from the host"
    elif named := ", ".join(dict.fromkeys(own)):
        # A graph would repeat what their Python code decided once.
        obstacle = f"{named} may read numbers on the host"
    elif "all" not in trained:
        obstacle = "steps that train the heads alone are not captured"
    if choice == "on" and obstacle:
        raise InputError(f"--cuda-graphs on: {obstacle}")
    if choice == "off":
        return False, "off, as asked"
    if obstacle:
        return False, f"off: {obstacle}"
    which = " that trains the encoder" if "heads" in trained else ""
    return True, f"on: a step{which} is captured once a batch of its shape recurs, and replayed from then on"


class DeviceSteps:
    """Runs `step` on batches that are gathered on the device.

    Args:
        step: what a step computes.
        batches: the training data on the device.
        tasks: the tasks' names, in the order of the batches.
        device: of all of it.
        graphs: whether to capture and replay CUDA graphs. The losses are the same bits with and without.
        fall_back: whether steps go on without graphs where a capture fails, instead of raising its RuntimeError.
        reporter: is warned then.
    """

    def __init__(
        self,
        step: TrainingStep,
        batches: DeviceBatches,
        tasks: Sequence[str],
        device: torch.device,
        *,
        graphs: bool,
        fall_back: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        self._step, self._batches, self._tasks, self._device = step, batches, list(tasks), device
        self._graphs, self._fall_back, self._reporter = graphs, fall_back, reporter
        self._staging = _Staging(device)
        self._inputs: dict[tuple[BatchShape, ...], Tensor] = {}
        self._captured: dict[tuple[BatchShape, ...], tuple[torch.cuda.CUDAGraph, StepOutput]] = {}
        if graphs:
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(device)

    @property
    def captured(self) -> int:
        """How many graphs there are: one for each shape that has recurred."""
        return len(self._captured)

    def forget(self) -> None:
        """Drop all graphs with their memory: the steps that come have other shapes."""
        self._inputs.clear()
        self._captured.clear()
        if self._graphs:
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, micro_batches: Sequence[MicroBatch], *, seed: int, rate_factor: float, epoch: int) -> StepOutput:
        """One step. What it returns holds until the next one: to keep it, copy it."""
        planned, numbers = self._batches.plan(micro_batches)
        shapes = tuple(planned)
        values = np.concatenate([_header(seed, rate_factor, epoch), numbers])
        recurs = shapes in self._inputs
        if not recurs:
            self._inputs[shapes] = torch.empty(len(values), dtype=torch.int64, device=self._device)
        inputs = self._inputs[shapes]
        self._staging.copy(values, inputs)
        if not self._graphs:
            return self._compute(shapes, inputs)
        if shapes not in self._captured:
            if not recurs:
                return self._on_side_stream(shapes, inputs)
            try:
                self._captured[shapes] = self._capture(shapes, inputs)
            except RuntimeError as error:
                if not self._fall_back:
                    raise
                self._graphs = False
                self._reporter.warn(f"no CUDA graphs from here on: {str(error).splitlines()[0]}")
                return self._compute(shapes, inputs)
        graph, output = self._captured[shapes]
        graph.replay()
        return output

    def run_part(
        self,
        parts: Sequence[tuple[MicroBatch, Others]],
        examples: Mapping[str, int],
        *,
        seed: int,
        rate_factor: float,
        epoch: int,
    ) -> StepOutput:
        """One rank's part of a step, which is not captured.

        parts: of each micro-batch; examples: of each task on all ranks.
        """
        shapes, numbers = self._batches.plan([part for part, _ in parts])
        values = np.concatenate([_header(seed, rate_factor, epoch), numbers])
        # Few of a run's parts have the same shape, so that no buffer is kept for one.
        inputs = torch.empty(len(values), dtype=torch.int64, device=self._device)
        self._staging.copy(values, inputs)
        own = iter(zip(shapes, self._numbers(tuple(shapes), inputs), strict=True))
        return self._call(
            whole_step(parts, lambda _, add: self._batches.gather(*next(own), accumulate=add)), examples, inputs
        )

    def _compute(self, shapes: tuple[BatchShape, ...], inputs: Tensor) -> StepOutput:
        batches = (
            self._batches.gather(shape, own, accumulate=number > 0)
            for number, (shape, own) in enumerate(zip(shapes, self._numbers(shapes, inputs), strict=True))
        )
        totals = [sum(counts) for counts in zip(*(shape.examples for shape in shapes), strict=True)]
        return self._call(batches, dict(zip(self._tasks, totals, strict=True)), inputs)

    def _numbers(self, shapes: tuple[BatchShape, ...], inputs: Tensor) -> tuple[Tensor, ...]:
        """What each micro-batch reads of a step's inputs."""
        return inputs[_HEADER:].split([self._batches.numbers(shape) for shape in shapes])

    def _call(self, batches: Iterable[LabelledBatch], examples: Mapping[str, int], inputs: Tensor) -> StepOutput:
        return self._step(
            batches,
            examples,
            seed=inputs[0],
            rate_factor=inputs[1:2].view(torch.float64)[0].float(),
            epoch=inputs[2].float(),
        )

    def _on_side_stream(self, shapes: tuple[BatchShape, ...], inputs: Tensor) -> StepOutput:
        """A first step of a shape, which also compiles its kernels: on the stream that a capture will use, as
        autograd wants it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return self._compute(shapes, inputs)
        finally:
            current.wait_stream(self._stream)

    def _capture(self, shapes: tuple[BatchShape, ...], inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, StepOutput]:
        """Nothing is computed here: the graph's first replay is this step."""
        return capture(lambda: self._compute(shapes, inputs), self._stream, self._pool)


def _header(seed: int, rate_factor: float, epoch: int) -> np.ndarray:
    return np.array([seed, np.float64(rate_factor).view(np.int64), epoch, 0], dtype=np.int64)


class _Staging:
    """Host buffers from which steps' inputs are copied, pinned where there is a GPU, and used in turn."""

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._buffers = [torch.empty(0, dtype=torch.int64) for _ in range(_AHEAD)]
        self._copied: list[torch.cuda.Event | None] = [None] * _AHEAD
        self._next = 0

    def copy(self, values: np.ndarray, target: Tensor) -> None:
        """Copy int64 `values` to `target` on the device, without waiting for it."""
        place, self._next = self._next, (self._next + 1) % _AHEAD
        if (event := self._copied[place]) is not None:
            event.synchronize()
        if len(self._buffers[place]) < len(values):
            self._buffers[place] = torch.empty(len(values), dtype=torch.int64, pin_memory=self._pinned)
        buffer = self._buffers[place][: len(values)]
        buffer.copy_(torch.from_numpy(values))
        target.copy_(buffer, non_blocking=True)
        if self._pinned:
            self._copied[place] = torch.cuda.Event()
            self._copied[place].record()
