"""The whole training step, MiniLM, three tasks, batch 32 a task, PCGrad: Concord against the papers' trainer.

Both peers train on the same examples in the same run. `extra_info` holds examples and real tokens a second and the
share of padding among what the peer computes.
"""

from itertools import cycle, islice

import numpy as np
import pytest
import torch

from bench.peers.faithful import FaithfulTrainer, PaddedBatch
from bert.models import load_model, minilm_directory
from train.build import build_model, build_optimizer
from train.config import RunConfig
from train.datasets import load_datasets, run_tasks
from train.loop import Trainer
from train.precision import choose_precision
from train.sampler import JointSampler

BATCH_SIZE, ROUNDS, WARM_UP = 32, 8, 2


@pytest.fixture(scope="module")
def config(request):
    return RunConfig(
        data=request.config.getoption("--data"),
        surgery="pcgrad",
        device="cpu",
        batch_size=BATCH_SIZE,
        skip_bad_rows=True,
    )


@pytest.fixture(scope="module")
def splits(config):
    tokenizer = load_model("minilm", seed=1).tokenizer
    return load_datasets(config, run_tasks(config), tokenizer, None, print, splits=("train",)).train


@pytest.fixture(scope="module")
def micro_batches(config, splits):
    """The examples of each measured step, the same for both."""
    sizes = {task: len(split) for task, split in splits.items()}
    sampler = JointSampler(sizes, batch_size=BATCH_SIZE, accumulate=1, seed=config.seed)
    return [batches[0] for batches in islice(sampler.epoch(0), ROUNDS + WARM_UP)]


def lengths_of(split, examples):
    return split.cu_seqlens[examples + 1] - split.cu_seqlens[examples]


def record(benchmark, splits, micro_batches, computed_tokens):
    """Put the rates beside the times; computed_tokens: padding included, a step on average."""
    measured = micro_batches[WARM_UP:]
    tokens = np.mean([sum(lengths_of(splits[task], batch[task]).sum() for task in splits) for batch in measured])
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["examples_per_second"] = round(BATCH_SIZE * len(splits) / seconds, 1)
    benchmark.extra_info["tokens_per_second"] = round(float(tokens) / seconds)
    benchmark.extra_info["padding_share"] = round(1 - float(tokens) / computed_tokens, 3)


@pytest.mark.benchmark(group="training step, MiniLM, 3 tasks, PCGrad")
def test_concord(benchmark, config, splits, micro_batches):
    precision = choose_precision("cpu", "off")
    model = build_model(config, run_tasks(config), load_model("minilm", seed=1).encoder, precision)
    optimizer = build_optimizer(config, model, precision)
    steps = Trainer(config, model, optimizer, splits, precision.device).epoch(0)
    benchmark.pedantic(lambda: next(steps), rounds=ROUNDS, warmup_rounds=WARM_UP)
    computed = [
        sum(lengths_of(splits[task], batch[task]).sum() for task in splits) for batch in micro_batches[WARM_UP:]
    ]
    record(benchmark, splits, micro_batches, float(np.mean(computed)))


@pytest.mark.benchmark(group="training step, MiniLM, 3 tasks, PCGrad")
def test_faithful(benchmark, config, splits, micro_batches):
    outputs = {name: split.task.classes for name, split in splits.items()}
    kinds = {name: split.task.kind for name, split in splits.items()}
    trainer = FaithfulTrainer(minilm_directory(), outputs, kinds, learning_rate=5e-5, seed=1)
    batches = [{task: padded(splits[task], batch[task]) for task in splits} for batch in micro_batches]
    remaining = cycle(batches)
    benchmark.pedantic(lambda: trainer.step(next(remaining)), rounds=ROUNDS, warmup_rounds=WARM_UP)
    computed = [sum(part.ids.numel() for part in batch.values()) for batch in batches[WARM_UP:]]
    record(benchmark, splits, micro_batches, float(np.mean(computed)))


def padded(split, examples):
    """One task's examples, padded to the longest of them; scores as shares of their range, as Concord trains them."""
    lengths = lengths_of(split, examples)
    ids, segments, mask = np.zeros((3, len(examples), lengths.max()), dtype=np.int64)
    for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
        span = slice(split.cu_seqlens[example], split.cu_seqlens[example] + length)
        ids[row, :length], segments[row, :length], mask[row, :length] = split.ids[span], split.segments[span], 1
    labels = split.labels[examples]
    if split.task.kind == "regression":
        labels = (labels - split.task.low) / (split.task.high - split.task.low)
    return PaddedBatch(*(torch.from_numpy(array) for array in (ids, segments, mask, labels)))
