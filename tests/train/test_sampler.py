"""Joint batches: an epoch ends with the largest set, and smaller sets cycle."""

from collections import Counter

import numpy as np
import pytest

from train.sampler import JointSampler

SIZES = {"small": 5, "large": 23, "middle": 11}


def make(**more):
    return JointSampler(SIZES, **{"batch_size": 4, "accumulate": 1, "seed": 3, **more})


def drawn(sampler, epochs, task):
    return np.concatenate([batch[task] for epoch in range(epochs) for step in sampler.epoch(epoch) for batch in step])


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_an_epoch_reads_the_largest_set_once(accumulate):
    sampler = make(accumulate=accumulate)
    assert sorted(drawn(sampler, 1, "large")) == list(range(23))
    assert sampler.steps_per_epoch == -(-23 // (4 * accumulate))


@pytest.mark.parametrize("task", ["small", "middle"])
def test_a_smaller_set_goes_through_all_its_examples_before_it_begins_anew(task):
    stream = drawn(make(), 4, task)
    size = SIZES[task]
    for start in range(0, len(stream) - size + 1, size):
        assert sorted(stream[start : start + size]) == list(range(size))
    orders = {tuple(stream[start : start + size]) for start in range(0, len(stream) - size + 1, size)}
    assert len(orders) > 1, "each pass has a fresh order"


def test_every_step_holds_a_batch_of_each_task():
    *whole, last = [step[0] for step in make().epoch(0)]
    assert all(len(indices) == 4 for batch in whole for indices in batch.values())
    assert Counter({task: len(indices) for task, indices in last.items()}) == {"small": 4, "large": 3, "middle": 4}


def test_what_a_step_reads_depends_on_its_number_alone():
    whole = list(make().epoch(1))
    rest = list(make().epoch(1, start=2))
    for step, expected in zip(rest, whole[2:], strict=True):
        assert all(np.array_equal(step[0][task], expected[0][task]) for task in SIZES)


def test_seeds_and_epochs_differ():
    first = drawn(make(), 1, "large").tolist()
    assert first != drawn(make(seed=4), 1, "large").tolist()
    assert first != drawn(make(), 2, "large")[23:].tolist()
