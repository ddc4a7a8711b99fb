"""Steps on the device's batches: they ask the host for nothing, and as CUDA graphs give the same bits."""

import contextlib
import traceback
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.heads import Head
from concord.bert.multitask import MultitaskModel
from concord.kernels.dispatch import using_kernels
from concord.kernels.graphs import capture
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.data.device_batches import DeviceBatches
from concord.train.data.tasks import select_tasks
from concord.train.reporter import SILENT
from concord.train.steps.build import build_trainer
from concord.train.steps.graphs import DeviceSteps, choose_graphs
from concord.train.steps.optimizer import SurgeryOptimizer
from tests.kernels.parity import DEVICE
from tests.samples import random_split
from tests.settings import fine_tuning
from tests.train.told import Told

TASKS = {task.name: task for task in select_tasks(["sst", "paraphrase", "sts"], None)}
NEEDS_CUDA = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


SMALL = BertConfig(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)


def make_trainer(
    *,
    graphs=False,
    reporter=SILENT,
    accumulate=1,
    dtype=torch.float32,
    surgery="pcgrad",
    scaling=False,
    smart=("0",),
    weights=None,
):
    tasks = {
        name: task if task.kind == "regression" else replace(task, class_weights=weights)
        for name, task in TASKS.items()
    }
    splits = {
        name: random_split(task, 3 + 2 * index, per_example=1 + (name == "sts"), seed=index, longest=5, vocab=20)
        for index, (name, task) in enumerate(tasks.items())
    }
    for split in splits.values():
        split.labels[:] %= 2
    device = torch.device(DEVICE)
    links = {"classification": "softmax", "binary": "sigmoid", "regression": "identity"}
    heads = {
        name: Head(16, task.classes, pair=name == "sts", dropout=0.1, link=links[task.kind])
        for name, task in TASKS.items()
    }
    for head in heads.values():
        head.initialise(torch.Generator().manual_seed(1))
        head.to(device)
    encoder = Encoder(SMALL)
    encoder.initialise(1)
    model = MultitaskModel(
        encoder.to(device),
        heads,
        compute_dtype=dtype,
        gradient_dtype=dtype if accumulate == 1 and smart == ("0",) else torch.float32,
    )
    settings = SurgerySettings(method=surgery, max_norm=1.0, scaling=scaling)
    optimizer = SurgeryOptimizer(
        model.shared, model.private, model.tasks, settings=settings, shared_rates=1e-3, private_rates=1e-2
    )
    config = fine_tuning(batch_size=1, epochs=4, accumulate=accumulate, surgery=surgery, smart=smart)
    return build_trainer(config, model, optimizer, splits, device, graphs=graphs, reporter=reporter), model


def losses_of(trainer, steps):
    results = (result for epoch in range(4) for result in trainer.epoch(epoch))
    return [
        {task: loss.item() for task, loss in result.losses.items()}
        for result, _ in zip(results, range(steps), strict=False)
    ]


FORBIDDEN = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::equal",
    "aten::lift_fresh",  # a tensor of numbers from the host
)


class AsksTheHost(TorchDispatchMode):
    """Notes what would make the host wait for a GPU, or what a CUDA graph cannot hold. The interpreter of the kernels,
    which works on the host, is left out."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.name().split(".")[0] in FORBIDDEN:
            stack = traceback.extract_stack()
            if not any(frame.filename.endswith("interpreter.py") for frame in stack):
                self.found.append((function.name(), [f"{frame.filename}:{frame.lineno}" for frame in stack][-8:]))
        return function(*arguments, **(options or {}))


@pytest.mark.slow
def test_a_shape_that_recurs_asks_the_host_for_nothing(monkeypatch):
    mode, compute = AsksTheHost(), DeviceSteps._compute

    def watched(self, *inputs):
        with mode:
            return compute(self, *inputs)

    with using_kernels("triton"):
        trainer, _ = make_trainer(surgery="gradvac", smart=("sst=1",), weights="balanced")
        batch = next(trainer.sampler.epoch(0))
        trainer._device_steps.run(batch, seed=1, rate_factor=1.0, epoch=0)
        monkeypatch.setattr("concord.train.steps.graphs.DeviceSteps._compute", watched)
        trainer._device_steps.run(batch, seed=2, rate_factor=0.5, epoch=1)
    assert mode.found == []


def test_what_asks_the_host_is_found():
    with AsksTheHost() as mode:
        torch.tensor([1.0]).sum().item()
    assert {name for name, _ in mode.found} == {"aten::_local_scalar_dense", "aten::lift_fresh"}


def make_steps(step, **more):
    splits = {name: random_split(task, 6, seed=index) for index, (name, task) in enumerate(TASKS.items())}
    device = torch.device(DEVICE)
    return DeviceSteps(step, DeviceBatches(splits, device), list(splits), device, **more)


def test_seed_rate_and_examples_are_handed_in_for_every_step():
    seen = []

    def step(batches, examples, *, seed, rate_factor, epoch):
        labels = [{task: own.tolist() for task, own in batch.labels.items()} for batch in batches]
        seen.append((labels, examples, seed.item(), rate_factor.item(), epoch.item()))

    steps = make_steps(step, graphs=False)
    for first, seed, factor in ((0, 7, 0.5), (2, (1 << 62) + 1, 1.0)):
        chosen = np.array([first, first + 3])
        micro_batches = [{"sst": chosen, "paraphrase": chosen, "sts": chosen}, dict.fromkeys(TASKS, chosen[:1])]
        steps.run(micro_batches, seed=seed, rate_factor=factor, epoch=first)
        both, one = (dict.fromkeys(TASKS, own) for own in (chosen.tolist(), [first]))
        assert seen[-1] == ([both, one], dict.fromkeys(TASKS, 3), seed, factor, first)


def test_where_a_capture_fails_training_goes_on_without_and_says_so(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
        monkeypatch.setattr("torch.cuda.Stream", lambda device: None)
    monkeypatch.setattr(DeviceSteps, "_on_side_stream", lambda self, *inputs: self._compute(*inputs))

    def fail(self, shapes, inputs):
        raise RuntimeError("not permitted when stream is capturing\nand more")

    monkeypatch.setattr("concord.train.steps.graphs.DeviceSteps._capture", fail)
    told, done = Told(), []
    steps = make_steps(
        lambda batches, examples, *, seed, rate_factor, epoch: done.append(seed.item()), graphs=True, reporter=told
    )
    batch = [dict.fromkeys(TASKS, np.array([1]))]
    steps.run(batch, seed=1, rate_factor=1.0, epoch=0)
    with pytest.raises(RuntimeError, match="capturing"):
        steps.run(batch, seed=2, rate_factor=1.0, epoch=0)
    steps._fall_back = True
    for seed in (2, 3):
        steps.run(batch, seed=seed, rate_factor=1.0, epoch=0)
    assert done == [1, 2, 3]
    assert told.lines == ["warning: no CUDA graphs from here on: not permitted when stream is capturing"]


def test_a_capture_that_cannot_be_ended_leaves_stream_and_generator_as_they_were(monkeypatch):
    @contextlib.contextmanager
    def graph(graph, pool, stream):
        yield
        raise RuntimeError("operation failed due to a previous error during capture")

    found = []
    generator = SimpleNamespace(clone_state=lambda: "state", graphsafe_set_state=found.append)
    monkeypatch.setattr("torch.cuda.default_generators", (None, generator))
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr("torch.cuda.set_stream", found.append)
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: None)
    monkeypatch.setattr("torch.cuda.graph", graph)
    with pytest.raises(RuntimeError, match="during capture"):
        capture(lambda: None, SimpleNamespace(device=torch.device("cuda:1")))
    assert found == ["stream of cuda:1", "state"]


@pytest.mark.cuda
@NEEDS_CUDA
def test_after_a_failed_capture_the_next_one_and_random_numbers_work():
    current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    values = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError):
        capture(lambda: values.sum().item(), stream)
    assert torch.cuda.current_stream() == current
    assert torch.randn(5, device=DEVICE).isfinite().all()
    graph, output = capture(lambda: values * 2, torch.cuda.Stream())
    graph.replay()
    assert output.tolist() == [2, 2, 2]


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize(
    "more",
    [
        {"dtype": torch.bfloat16},
        {"dtype": torch.bfloat16, "accumulate": 2, "surgery": "gradvac"},
        {"dtype": torch.float16, "scaling": True},
        {"surgery": "none"},
        {"smart": ("sts=1",)},
        {"weights": "balanced"},
    ],
)
def test_graphs_give_the_same_bits(more):
    plain, model = make_trainer(**more)
    graphed, graphed_model = make_trainer(graphs=True, **more)
    assert losses_of(graphed, 24) == losses_of(plain, 24)
    assert torch.equal(graphed_model.shared.master, model.shared.master)
    assert torch.equal(graphed_model.private.master, model.private.master)
    assert graphed.captured >= 2 > plain.captured


def test_graphs_are_chosen_where_they_can_be_and_the_reason_is_told(monkeypatch):
    def chosen(device, **settings):
        return choose_graphs(fine_tuning(**settings), torch.device(device))

    assert chosen("cpu") == (False, "off: this is no CUDA device")
    with pytest.raises(InputError, match="--cuda-graphs on: this is no CUDA device"):
        chosen("cpu", cuda_graphs="on")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    assert chosen("cuda")[0]
    assert chosen("cuda", cuda_graphs="on", surgery="pcgrad")[0]
    assert chosen("cuda", cuda_graphs="off") == (False, "off, as asked")
    assert chosen("cuda", surgery="mgda") == (False, "off: this surgery's coefficients come from the host")
    assert chosen("cuda", stages=("heads",)) == (False, "off: steps that train the heads alone are not captured")
    with pytest.raises(InputError, match="--cuda-graphs on: steps that train the heads alone"):
        chosen("cuda", cuda_graphs="on", stages=("heads",))
    mixed = chosen("cuda", stages=("heads:1", "all:2"))
    assert mixed == (True, chosen("cuda")[1].replace("a step is", "a step that trains the encoder is"))
    assert mixed[1] != chosen("cuda")[1]
    with pytest.raises(InputError, match="--cuda-graphs on: projected attention"):
        chosen("cuda", cuda_graphs="on", pals=24)
    with using_kernels("auto", from_torch=["add_layer_norm"]):
        assert chosen("cuda") == (False, "off: the torch references need each batch's lengths on the host")
    with using_kernels("auto", from_torch=["combine_adamw"]):
        assert chosen("cuda") == (False, "off: a torch reference reads numbers on the host")
