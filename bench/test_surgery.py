"""Surgery + clipping + AdamW + low-precision copy, from task gradients that are there: Concord against its peers; and
whole steps of a training loop of one's own.

Each peer is what a training loop runs after its backwards. On a GPU Concord's task gradients are bf16, as its step
leaves them; the peers' are fp32, as autograd leaves them. The floor is that of Concord's bytes. On a GPU what decides
on the device is measured as a CUDA graph, as a training step has it; peers that decide on the host cannot be captured,
and their names say so.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torchjd.aggregation import PCGrad

from bench.contest import Contestant, by_itself
from bench.loop_cases import APART, EXAMPLES, MODELS, MOST_BYTES, TRAINERS, applies, build_loop, fits
from bench.peers.faithful import FaithfulTrainer
from bench.peers.stock import StockTrainer
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.measure import Work, captured
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.steps.optimizer import SurgeryOptimizer

ON_GPU = torch.cuda.is_available()
SIZES = {"MiniLM": 22_700_000, "BERT-base": 109_500_000, "BERT-large": 335_000_000}
# (tasks, model), in the order of their value, since a run may be cut off.
CASES = [
    (3, "BERT-base"),
    (3, "MiniLM"),
    *((tasks, model) for model in ("MiniLM", "BERT-base") for tasks in (2, 8, 16)),
    (4, "MiniLM"),
    (3, "BERT-large"),
]
PARITY = ("tests/kernels/test_gram.py", "tests/kernels/test_surgery.py", "tests/kernels/test_adamw.py")
LOOP_PARITY = ("tests/bench/test_loop_peers.py",)
MATRICES = 100
ON_HOST = ", not captured" if ON_GPU else ""


@pytest.fixture(params=CASES if ON_GPU else [(3, "MiniLM"), (2, "MiniLM")], ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    return request.param


def parameters_of(model, device):
    """As many matrices as such a model has, all of one size."""
    rows = SIZES[model] // MATRICES // 1024
    return [nn.Parameter(torch.randn(rows, 1024, device=device)) for _ in range(MATRICES)]


def gradients_of(tasks, parameters, device):
    """Conflicting gradients of ordinary size, fp32 [T, P]."""
    count = sum(parameter.numel() for parameter in parameters)
    gradients = torch.randn(tasks, count, device=device) * 1e-3
    gradients[1] -= gradients[0] * 0.3
    return gradients


def row(record, function, case, peer, work=None, extra=None):
    tasks, model = case
    record(
        function,
        group="surgery",
        name="surgery + clip + AdamW",
        case={"tasks": tasks, "model": model, "parameters": SIZES[model]},
        peer=peer,
        work=work,
        parity=PARITY,
        rounds=20 if ON_GPU else 5,
        warm_up=3 if ON_GPU else 1,
        extra=extra,
    )


def captured_row(record, function, device, case, peer, work=None):
    """The same of a graph, whose memory was taken before: the peak is that of a call without."""
    extra = {}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        extra["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    row(record, captured(function, device), case, peer, work, extra)


@pytest.mark.benchmark(group="surgery + clip + AdamW")
def test_concord(record, device, case):
    tasks, model = case
    parameters = {str(index): parameter for index, parameter in enumerate(parameters_of(model, device))}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    names = [f"task {task}" for task in range(tasks)]
    blocks = {name: f"layer {index * 14 // MATRICES}" for index, name in enumerate(parameters)}
    shared = FlatParameters(parameters, blocks, tasks=tasks, compute_dtype=dtype, gradient_dtype=dtype)
    heads = {name: nn.Parameter(torch.randn(2, 384, device=device)) for name in names}
    private = FlatParameters(heads, dict(zip(names, names, strict=True)), tasks=1, deposit=False)
    shared.gradients.copy_(gradients_of(tasks, shared.values().values(), device))
    settings = SurgerySettings(method="pcgrad", max_norm=1.0)
    optimizer = SurgeryOptimizer(shared, private, names, settings=settings, shared_rates=1e-5, private_rates=1e-5)
    seed, factor = torch.tensor(7, device=device), torch.ones((), device=device)
    copied = 0 if shared.compute is shared.master else dtype.itemsize
    work = Work(bytes=shared.size * (2 * tasks * dtype.itemsize + 24 + copied))
    captured_row(record, lambda: optimizer.step(seed=seed, rate_factor=factor), device, case, "concord", work)


@pytest.mark.benchmark(group="surgery + clip + AdamW")
def test_literal_library(record, device, case):
    tasks, model = case
    if tasks * SIZES[model] > 400_000_000:
        pytest.skip("seventeen copies of the gradients do not fit beside everything else")
    trainer = FaithfulTrainer(nn.ParameterList(parameters_of(model, device)), learning_rate=1e-5)
    gradients = list(gradients_of(tasks, trainer.parameters, device))
    reached = [torch.ones_like(gradient) for gradient in gradients]
    row(record, lambda: trainer.merge_and_step(gradients, reached), case, f"literal library + AdamW{ON_HOST}")


class Model(nn.Module):
    def __init__(self, parameters):
        super().__init__()
        self.encoder = nn.ParameterList(parameters)


@pytest.mark.benchmark(group="surgery + clip + AdamW")
def test_flat_torch(record, device, case):
    tasks, model = case
    trainer = StockTrainer(Model(parameters_of(model, device)), learning_rate=1e-5, capturable=ON_GPU)
    gradients = gradients_of(tasks, trainer.shared, device)

    def step():
        trainer.merge(gradients)
        trainer.clip_and_step()

    captured_row(record, step, device, case, "flat torch + fused AdamW")


@pytest.mark.benchmark(group="surgery + clip + AdamW")
def test_torchjd(record, device, case):
    tasks, model = case
    trainer = StockTrainer(Model(parameters_of(model, device)), learning_rate=1e-5)
    gradients = gradients_of(tasks, trainer.shared, device)
    aggregator = PCGrad()
    sizes = [parameter.numel() for parameter in trainer.shared]

    def step():
        for parameter, gradient in zip(trainer.shared, aggregator(gradients).split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        trainer.clip_and_step()

    row(record, step, case, f"TorchJD + fused AdamW{ON_HOST}")


# In the order of their value, since a run may be cut off.
LOOPS = [(tasks, model) for tasks in (3, 2, 8) for model in MODELS]
APART_LOOPS = [loop for loop in LOOPS if loop[1] in APART]
LOOP = {"group": "surgery", "name": "a step of a loop with PCGrad"}
# Not by the names of models, by which gpu.sh chooses: they are measured by themselves, pytest bench/ -k loop.
SHAPES = {"MiniLM": "384x6", "BERT-base": "768x12", "ResNet-50": "images"}


def each_of(loops):
    return pytest.mark.parametrize("loop", loops, ids=lambda loop: f"{loop[0]}-{SHAPES[loop[1]]}")


def described(loop):
    return {"tasks": loop[0], "model": loop[1], "examples": EXAMPLES}


def loop_contestants(names, loop, device):
    """Who takes steps of a loop on a CPU, and the memory of each, measured before any is there."""
    tasks, model = loop
    peaks = {name: by_itself("loop", model, str(tasks), name).peak_bytes for name in names}
    return [
        Contestant(
            run=build_loop(name, model, tasks, device),
            case=described(loop),
            peer=name,
            parity=LOOP_PARITY,
            extra={"peak_bytes": peak},
        )
        for name, peak in peaks.items()
    ]


@pytest.mark.skipif(ON_GPU, reason="on a GPU each is timed by itself")
@each_of([loop for loop in LOOPS if loop not in APART_LOOPS])
@pytest.mark.benchmark(group="a step of a loop")
def test_steps_of_a_loop_in_turn(record_contest, device, loop):
    names = [name for name in TRAINERS if applies(name, loop[1])]
    record_contest(loop_contestants(names, loop, device), **LOOP, rounds=3)


@pytest.mark.skipif(ON_GPU, reason="on a GPU each is timed by itself")
@pytest.mark.parametrize("name", TRAINERS)
@each_of(APART_LOOPS)
@pytest.mark.benchmark(group="a step of a loop")
def test_a_step_of_a_loop_apart(record_contest, loop, name):
    """Contestants that do not fit beside each other: one after the other, each round a process, which warms up."""
    tasks, model = loop
    if not fits(name, model, tasks):
        pytest.skip(f"it takes more than {MOST_BYTES / 2**30:.0f} GiB")
    run = partial(by_itself, "loop", model, str(tasks), name)
    contestant = Contestant(run=run, case=described(loop), peer=name, parity=LOOP_PARITY)
    record_contest([contestant], **LOOP, rounds=2, warm_up=0)


@pytest.mark.skipif(not ON_GPU, reason="on a CPU they are timed in turn")
@pytest.mark.parametrize("name", TRAINERS)
@each_of(LOOPS)
@pytest.mark.benchmark(group="a step of a loop")
def test_a_step_of_a_loop(record, device, loop, name):
    tasks, model = loop
    if not applies(name, model):
        pytest.skip("TorchJD's engine takes no batch norm")
    step = build_loop(name, model, tasks, device)
    record(step, **LOOP, case=described(loop), peer=name, parity=LOOP_PARITY, rounds=10, warm_up=3)
