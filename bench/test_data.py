"""The data's way to a step: texts to wordpieces, and examples to a batch on the device."""

from itertools import count, cycle, islice

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bench.peers.padded import pad
from concord.bert.models import load_model, minilm_directory
from concord.kernels.dispatch import needs_host_lengths
from concord.train.data.batches import gather
from concord.train.data.datasets import load_datasets
from concord.train.data.demo_sets import demo_examples
from concord.train.data.device_batches import DeviceBatches
from concord.train.data.sampler import JointSampler
from concord.train.data.tasks import select_tasks
from concord.train.data.tokenized import tokenize_split
from concord.train.reporter import SILENT
from concord.train.settings.config import RunConfig
from concord.train.settings.typed import fine_tuning_config

ROUNDS, WARM_UP = 8, 2
BATCH = 32  # examples a task
TASKS = select_tasks(["sst", "paraphrase", "sts"], None)


@pytest.mark.parametrize("name", ["concord", "padded"])
@pytest.mark.benchmark(group="batch")
def test_a_steps_batch(record, device, training_splits, lengths_name, name):
    sampler = JointSampler(
        {task: len(split) for task, split in training_splits.items()}, batch_size=BATCH, accumulate=1, seed=1
    )
    remaining = cycle([batches[0] for batches in islice(sampler.epoch(0), ROUNDS + WARM_UP)])
    if name == "padded":

        def make():
            batch = next(remaining)
            return [pad(split, batch[task], device) for task, split in training_splits.items()]
    elif not needs_host_lengths(device):
        batches = DeviceBatches(training_splits, device)

        def make():
            (shape,), numbers = batches.plan([next(remaining)])
            return batches.gather(shape, torch.from_numpy(numbers).to(device, non_blocking=True), accumulate=False)
    else:

        def make():
            return gather(training_splits, next(remaining), device)

    def make_and_wait():
        make()
        if device.type == "cuda":  # what is only queued is not there yet
            torch.cuda.synchronize(device)

    record(
        make_and_wait,
        group="other",
        name="a step's batch, from the tokenised data to the device",
        case={"lengths": lengths_name, "tasks": len(training_splits), "batch": BATCH},
        peer=name,
        parity=("tests/train/test_device_batches.py",),
        rounds=ROUNDS,
        warm_up=WARM_UP,
        on_host=True,
        extra={"examples": BATCH * len(training_splits)},
    )


@pytest.mark.parametrize("name", ["concord", "transformers"])
@pytest.mark.benchmark(group="tokenising")
def test_tokenising(record, name):
    examples = {task.name: demo_examples(task.name, "train") for task in TASKS}
    total = sum(map(len, examples.values()))
    if name == "concord":
        tokenizer = load_model("minilm", seed=1).tokenizer

        def tokenise():
            for task in TASKS:
                tokenize_split(task, examples[task.name], tokenizer, pair_encoding="joint", max_length=512, cache=None)
    else:
        fast = AutoTokenizer.from_pretrained(minilm_directory())

        def tokenise():
            for own in examples.values():
                second = [example.second for example in own] if own[0].second is not None else None
                found = fast([example.first for example in own], second, truncation=True, max_length=512)
                np.concatenate([np.asarray(ids, dtype=np.int32) for ids in found["input_ids"]])

    record(
        tokenise,
        group="other",
        name="texts to wordpieces",
        case={"data": "demo", "examples": total},
        peer=name,
        parity=("tests/bert/test_tokenizer.py",),
        rounds=3,
        warm_up=1,
        on_host=True,
        extra={"examples": total},
    )


@pytest.mark.parametrize("cache", ["empty", "full"])
@pytest.mark.benchmark(group="data sets")
def test_data_sets_of_a_run(record, request, tmp_path, cache):
    data = request.config.getoption("--data")
    if not data:
        pytest.skip("needs a folder in the course layout, --data DIR")
    tokenizer = load_model("minilm", seed=1).tokenizer
    config = fine_tuning_config(RunConfig(data=data, skip_bad_rows=True)).data
    folders = (tmp_path / (f"{number}" if cache == "empty" else "kept") for number in count())

    def load():
        return load_datasets(config, TASKS, tokenizer, next(folders), SILENT)

    sets = load()
    examples = sum(len(split) for own in (sets.train, sets.dev, sets.test) for split in own.values())
    record(
        load,
        group="other",
        name="data sets of a run, read and tokenised",
        case={"examples": examples, "cache": cache},
        rounds=5,
        warm_up=0,
        on_host=True,
        extra={"examples": examples},
    )
