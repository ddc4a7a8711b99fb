"""The whole training step, three tasks, batch 32 a task: Concord against the papers' trainer and the best of stock.

All train on the same examples in the same run, at the lengths of the data (--data), in bf16 on a GPU and fp32 on a CPU.
`tests/bench/test_peers.py` proves that each peer computes Concord's update.
"""

from itertools import cycle, islice

import numpy as np
import pytest
import torch

from bench.peers.faithful import FaithfulTrainer
from bench.peers.padded import PaddedModel, pad
from bench.peers.stock import StockTrainer
from bench.peers.torchjd_trainer import TorchJDTrainer
from bert.models import load_model, minilm_directory
from train.build import build_model, build_optimizer, fit_model, load_pretrained
from train.config import RunConfig
from train.datasets import load_datasets, run_tasks
from train.loop import Trainer
from train.precision import choose_precision
from train.sampler import JointSampler

ON_GPU = torch.cuda.is_available()
BATCH_SIZE = 32
ROUNDS, WARM_UP = (30, 12) if ON_GPU else (5, 1)
SLOW_ROUNDS = 30 if ON_GPU else 2  # of TorchJD
BUCKET = 32  # padding's multiple where graphs are compiled for each length
PARITY = ("tests/bench/test_peers.py", "tests/bert/test_task_gradients.py", "tests/train/test_optimizer.py")

# Name -> trainer of a padded model, what computes its attention, the multiple that it pads to.
PEERS = {
    "faithful": (lambda model, **more: FaithfulTrainer(model, **more), "eager", 1),
    "best of stock": (lambda model, **more: StockTrainer(model, **more), "sdpa", 1),
    "TorchJD, Jacobian": (lambda model, **more: TorchJDTrainer(model, gramian=False, **more), "sdpa", 1),
    "TorchJD, Gramian": (lambda model, **more: TorchJDTrainer(model, gramian=True, **more), "sdpa", 1),
    "plain sum": (lambda model, **more: StockTrainer(model, surgery=False, **more), "sdpa", 1),
}
COMPILED = {
    "best of stock, compiled": (
        lambda model, **more: StockTrainer(model, compile_mode="default", **more),
        "sdpa",
        BUCKET,
    ),
    "best of stock, CUDA graphs": (
        lambda model, **more: StockTrainer(model, compile_mode="reduce-overhead", **more),
        "sdpa",
        BUCKET,
    ),
}


def config_of(request, **more):
    return RunConfig(
        data=request.config.getoption("--data"),
        batch_size=BATCH_SIZE,
        amp="auto" if ON_GPU else "off",
        skip_bad_rows=True,
        **more,
    )


@pytest.fixture(scope="module")
def splits(request):
    config = config_of(request)
    tokenizer = load_model("minilm", seed=1).tokenizer
    return load_datasets(config, run_tasks(config), tokenizer, None, print, splits=("train",)).train


@pytest.fixture(scope="module")
def micro_batches(splits):
    """The examples of each measured step, the same for all."""
    sampler = JointSampler(
        {task: len(split) for task, split in splits.items()}, batch_size=BATCH_SIZE, accumulate=1, seed=1
    )
    return [batches[0] for batches in islice(cycle(sampler.epoch(0)), ROUNDS + WARM_UP)]


def tokens_of(splits, micro_batches):
    """Real tokens a measured step, on average."""
    counts = [
        sum((split.cu_seqlens[batch[task] + 1] - split.cu_seqlens[batch[task]]).sum() for task, split in splits.items())
        for batch in micro_batches[WARM_UP:]
    ]
    return float(np.mean(counts))


def row(record, function, splits, micro_batches, peer, computed=None, rounds=ROUNDS):
    tokens = tokens_of(splits, micro_batches)
    record(
        function,
        group="step",
        name="training step with PCGrad",
        case={"model": "MiniLM", "tasks": len(splits), "batch": BATCH_SIZE, "dtype": "bf16" if ON_GPU else "fp32"},
        peer=peer,
        parity=PARITY,
        rounds=rounds,
        warm_up=WARM_UP,
        extra={
            "tokens": tokens,
            "examples": BATCH_SIZE * len(splits),
            "padding_share": 0.0 if computed is None else round(1 - tokens / computed, 3),
        },
    )


@pytest.mark.parametrize("surgery", ["pcgrad", "none"])
@pytest.mark.benchmark(group="training step")
def test_concord(record, request, splits, micro_batches, surgery):
    config = config_of(request, surgery=surgery, epochs=100)
    precision = choose_precision(config.device, config.amp)
    encoder = load_pretrained(config).encoder
    config = fit_model(config, encoder.config)
    model = build_model(config, run_tasks(config), encoder, precision)
    trainer = Trainer(config, model, build_optimizer(config, model, precision), splits, precision.device)
    steps = (result for epoch in range(100) for result in trainer.epoch(epoch))
    peer = "concord" if surgery == "pcgrad" else "concord, plain sum"
    row(record, lambda: next(steps), splits, micro_batches, peer)


@pytest.mark.parametrize("peer", [*PEERS, *COMPILED])
@pytest.mark.benchmark(group="training step")
def test_peer(record, device, splits, micro_batches, peer):
    if peer in COMPILED and not ON_GPU:
        pytest.skip("compiles a graph for every length: minutes on a CPU")
    make, attention, multiple = (PEERS | COMPILED)[peer]
    torch._dynamo.config.recompile_limit = 64
    outputs = {name: split.task.classes for name, split in splits.items()}
    kinds = {name: split.task.kind for name, split in splits.items()}
    torch.manual_seed(1)
    model = PaddedModel(minilm_directory(), outputs, kinds, attention=attention).to(device)
    trainer = make(model, learning_rate=5e-5, amp=torch.bfloat16 if ON_GPU else None)
    batches = [
        {task: pad(split, batch[task], device, multiple) for task, split in splits.items()} for batch in micro_batches
    ]
    remaining = cycle(batches)
    computed = float(np.mean([sum(part.ids.numel() for part in batch.values()) for batch in batches[WARM_UP:]]))
    row(
        record,
        lambda: trainer.step(next(remaining)),
        splits,
        micro_batches,
        peer,
        computed,
        SLOW_ROUNDS if "TorchJD" in peer else ROUNDS,
    )
