"""Batches gathered on the device hold what those of the host hold, in rows of few sizes."""

import numpy as np
import pytest
import torch

from concord.train.data.batches import gather
from concord.train.data.device_batches import DeviceBatches, round_tokens
from concord.train.data.tasks import select_tasks
from tests.kernels.parity import DEVICE
from tests.samples import random_split

SPLITS = {
    "sst": random_split(select_tasks(["sst"], None)[0], 30),
    "paraphrase": random_split(select_tasks(["paraphrase"], None)[0], 50, seed=1),
    "sts": random_split(select_tasks(["sts"], None)[0], 20, per_example=2, seed=2),
}
MICRO_BATCHES = [
    {"sst": np.array([4, 29, 0]), "paraphrase": np.array([49]), "sts": np.array([19, 3])},
    {"sst": np.array([], dtype=np.int64), "paraphrase": np.arange(50), "sts": np.array([7])},
]


def planned(batches):
    """Each micro-batch with its shape and its numbers on the device."""
    shapes, numbers = batches.plan(MICRO_BATCHES)
    pieces = torch.from_numpy(numbers).to(DEVICE).split([batches.numbers(shape) for shape in shapes])
    return zip(MICRO_BATCHES, shapes, pieces, strict=True)


def assert_same(found, expected, *, tokens, accumulate):
    """The packed batches, of which the first has padding up to `tokens`."""
    real = len(expected.ids)
    for name in ("ids", "positions", "segments"):
        values = getattr(found, name)
        assert values[:real].tolist() == getattr(expected, name).tolist()
        assert len(values) == tokens
        assert not values[real:].any()
    assert found.sequences.cu_seqlens.tolist() == expected.sequences.cu_seqlens.tolist()
    assert found.sequences.first.tolist() == expected.sequences.first.tolist()
    assert found.token_rows.offsets.tolist() == expected.token_rows.offsets.tolist()
    assert found.sequence_rows.bounds == expected.sequence_rows.bounds
    assert found.token_rows.accumulate == found.sequence_rows.accumulate == accumulate
    assert expected.token_rows.accumulate == expected.sequence_rows.accumulate == accumulate


@pytest.mark.parametrize("accumulate", [False, True])
def test_device_and_host_gather_the_same_batches(accumulate):
    batches = DeviceBatches(SPLITS, torch.device(DEVICE))
    for micro_batch, shape, piece in planned(batches):
        found = batches.gather(shape, piece, accumulate=accumulate)
        expected = gather(SPLITS, micro_batch, DEVICE, accumulate=accumulate)
        assert_same(found.packed, expected.packed, tokens=shape.tokens, accumulate=accumulate)
        assert found.smoothed is expected.smoothed is None
        assert {task: own.tolist() for task, own in found.labels.items()} == {
            task: own.tolist() for task, own in expected.labels.items()
        }


@pytest.mark.parametrize("smoothed", [["sst", "sts"], ["sst"], list(SPLITS)])
def test_the_tasks_with_a_regulariser_are_packed_by_themselves_too(smoothed):
    batches = DeviceBatches(SPLITS, torch.device(DEVICE), smoothed=smoothed)
    for micro_batch, shape, piece in planned(batches):
        found = batches.gather(shape, piece, accumulate=False)
        expected = gather(SPLITS, micro_batch, DEVICE, smoothed=smoothed)
        assert_same(found.packed, expected.packed, tokens=shape.tokens, accumulate=False)
        counts = [len(micro_batch[task]) * (1 + (task == "sts")) * (task in smoothed) for task in SPLITS]
        if not any(counts):
            assert found.smoothed is expected.smoothed is None
            continue
        assert np.diff(expected.smoothed.sequence_rows.bounds).tolist() == counts
        assert_same(found.smoothed, expected.smoothed, tokens=shape.smoothed_tokens, accumulate=True)


def test_the_micro_batches_of_a_step_share_a_size_that_fits_the_largest():
    shapes, _ = DeviceBatches(SPLITS, torch.device(DEVICE)).plan(MICRO_BATCHES)
    largest = len(gather(SPLITS, MICRO_BATCHES[1]).packed.ids)
    assert [shape.tokens for shape in shapes] == [round_tokens(largest)] * 2
    assert [shape.max_length for shape in shapes] == [32, 32]
    assert [shape.examples for shape in shapes] == [(3, 1, 2), (0, 50, 1)]


def test_token_counts_are_rounded_up_by_an_eighth_at_most_to_few_sizes():
    sizes = {round_tokens(tokens) for tokens in range(1, 5000)}
    assert len(sizes) < 40
    for tokens in range(1, 5000):
        assert tokens <= round_tokens(tokens) < tokens + max(64, tokens / 8)


def test_the_references_refuse_what_only_the_device_knows():
    batches = DeviceBatches(SPLITS, torch.device(DEVICE))
    shapes, numbers = batches.plan(MICRO_BATCHES[:1])
    packed = batches.gather(shapes[0], torch.from_numpy(numbers).to(DEVICE), accumulate=False).packed
    with pytest.raises(RuntimeError, match="on the device alone"):
        _ = packed.sequences.padding
    with pytest.raises(RuntimeError, match="on the device alone"):
        list(packed.token_rows.slices())
