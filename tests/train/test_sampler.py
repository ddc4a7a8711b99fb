"""Joint batches: an epoch ends with the largest or smallest set, or after as many steps as are asked for."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train.data.sampler import JointSampler

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


@pytest.mark.parametrize(("accumulate", "expected"), [(1, "aa3098410b890f5f"), (2, "2ff6333f128ab91a")])
def test_the_default_reads_what_recorded_runs_have_read(accumulate, expected):
    sampler, digest = make(accumulate=accumulate), hashlib.sha256()
    for epoch in range(3):
        for step in sampler.epoch(epoch):
            for batch in step:
                assert list(batch) == list(SIZES)
                for task, indices in batch.items():
                    assert indices.dtype == np.int64
                    digest.update(f"{task}:{indices.tolist()};".encode())
            digest.update(b"|")
    assert digest.hexdigest()[:16] == expected


def test_sets_of_one_size_are_both_read_once_an_epoch():
    sampler = JointSampler({"one": 7, "other": 7}, batch_size=4, accumulate=1, seed=0)
    for epoch in range(2):
        for task in ("one", "other"):
            assert sorted(np.concatenate([step[0][task] for step in sampler.epoch(epoch)])) == list(range(7))


def test_a_set_that_ends_within_the_last_step_is_filled_up_and_goes_on():
    sampler = JointSampler({"large": 23, "little_less": 22}, batch_size=4, accumulate=1, seed=0)
    read = drawn(sampler, 2, "little_less")
    assert len(read) == 48
    assert all(sorted(part) == list(range(22)) for part in (read[:22], read[22:44]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_until_smallest_ends_with_the_smallest_set_and_cuts_the_others(accumulate):
    sampler = make(until="smallest", accumulate=accumulate)
    assert sampler.steps_per_epoch == -(-5 // (4 * accumulate))
    assert sorted(drawn(sampler, 1, "small")) == list(range(5))
    for task in ("middle", "large"):
        read = drawn(sampler, 1, task).tolist()
        assert len(read) == len(set(read)) == 8


def test_until_smallest_reads_no_example_twice_in_an_epoch():
    sampler = JointSampler({"smallest": 5, "little_more": 6}, batch_size=4, accumulate=1, seed=0, until="smallest")
    assert sorted(drawn(sampler, 1, "little_more")) == list(range(6))


def test_until_smallest_has_fresh_orders_each_epoch():
    sampler = make(until="smallest")
    for task in SIZES:
        orders = drawn(sampler, 12, task).reshape(12, -1)
        assert len({tuple(order) for order in orders}) > 9
    # Nothing is left out for good: 12 epochs of 8 examples could not reach all 23 otherwise.
    assert len(set(drawn(sampler, 12, "large"))) == 23


@pytest.mark.parametrize("until", ["largest", "smallest"])
def test_a_number_of_steps_makes_every_set_go_on_where_it_left_off(until):
    sampler = make(steps_per_epoch=3, until=until, accumulate=2)
    assert sampler.steps_per_epoch == 3
    for task, size in SIZES.items():
        stream = drawn(sampler, 4, task)
        assert len(stream) == 4 * 3 * 2 * 4
        for start in range(0, len(stream) - size + 1, size):
            assert sorted(stream[start : start + size]) == list(range(size))


def test_batch_sizes_may_differ_between_the_tasks():
    sampler = make(batch_size={"small": 1, "large": 3, "middle": 2})
    assert sampler.steps_per_epoch == 8
    assert [len(next(sampler.epoch(0))[0][task]) for task in SIZES] == [1, 3, 2]


def test_accumulated_micro_batches_are_the_pieces_of_one_larger_batch():
    for one, two in zip(make(accumulate=2).epoch(0), make(batch_size=8).epoch(0), strict=True):
        assert len(one) == 2
        for task in SIZES:
            assert np.array_equal(np.concatenate([batch[task] for batch in one]), two[0][task])


def test_an_empty_set_is_named():
    with pytest.raises(InputError, match=r"^none: no training examples, expected at least one$"):
        JointSampler({"some": 3, "none": 0}, batch_size=4, accumulate=1, seed=0)
