"""The modes of --batching: whose turn it is, how much of each set an epoch reads, and that resuming changes nothing."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train.data.batching import AnnealedSampler, build_sampler, divide_in_proportion
from tests.settings import fine_tuning

SIZES = {"middle": 11, "large": 23, "small": 5}
MODES = [
    {"batching": batching, "until": until, "steps_per_epoch": steps}
    for batching in ("joint", "alternate", "sequential", "proportional", "annealed")
    for until in ("largest", "smallest")
    for steps in (0, 7)
]


def make(batching, sizes=SIZES, **more):
    settings = {"batch_size": 4, "seed": 3, "epochs": 4, **more}
    return build_sampler(fine_tuning(tasks=tuple(sizes), batching=batching, **settings).batches, sizes)


def as_lists(steps):
    return [[{task: indices.tolist() for task, indices in batch.items()} for batch in step] for step in steps]


def present(step):
    """The tasks that each micro-batch of a step holds."""
    return [tuple(task for task, indices in batch.items() if len(indices)) for batch in step]


def examples(steps, task):
    return [index for step in steps for batch in step for index in batch[task].tolist()]


def order_of_tasks(steps):
    turns = []
    for step in steps:
        (task,) = set(present(step)[0])
        assert set(present(step)) == {(task,)}, "one task a step"
        turns.append(task)
    return turns


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode.values())))
class TestEveryMode:
    def test_an_epoch_resumed_in_its_middle_reads_what_the_uninterrupted_one_does(self, mode, accumulate):
        whole = make(**mode, accumulate=accumulate)
        epochs = [as_lists(whole.epoch(epoch)) for epoch in range(4)]
        for epoch, steps in enumerate(epochs):
            for start in {1, len(steps) // 2, len(steps)}:
                resumed = make(**mode, accumulate=accumulate)
                assert as_lists(resumed.epoch(epoch, start)) == steps[start:]

    def test_an_epoch_has_the_steps_that_it_promises_and_every_batch_names_every_task(self, mode, accumulate):
        sampler = make(**mode, accumulate=accumulate)
        steps = list(sampler.epoch(1))
        assert len(steps) == sampler.steps_per_epoch
        assert mode["steps_per_epoch"] in (0, len(steps))
        for step in steps:
            assert 1 <= len(step) <= accumulate
            assert all(present(step)), "no micro-batch is empty"
            for batch in step:
                assert list(batch) == list(SIZES)
                assert all(indices.dtype == np.int64 for indices in batch.values())
                assert all((indices < SIZES[task]).all() for task, indices in batch.items())

    def test_another_seed_reads_something_else(self, mode, accumulate):
        first, other = (make(**mode, accumulate=accumulate, seed=seed) for seed in (3, 4))
        assert as_lists(first.epoch(0)) != as_lists(other.epoch(0))

    def test_another_epoch_reads_something_else(self, mode, accumulate):
        sampler = make(**mode, accumulate=accumulate)
        assert as_lists(sampler.epoch(0)) != as_lists(sampler.epoch(1))


@pytest.mark.parametrize(("until", "rounds"), [("largest", 6), ("smallest", 2)])
def test_alternate_takes_turns_and_reads_in_a_round_what_a_joint_step_reads(until, rounds):
    alternate, joint = make("alternate", until=until), make("joint", until=until)
    for epoch in range(2):
        steps = list(alternate.epoch(epoch))
        assert order_of_tasks(steps) == ["middle", "large", "small"] * rounds
        for task in SIZES:
            assert examples(steps, task) == examples(joint.epoch(epoch), task)
    assert sorted(examples(alternate.epoch(0), "large" if until == "largest" else "small")) == list(
        range(23 if until == "largest" else 5)
    )


def test_alternate_accumulates_micro_batches_of_one_task():
    steps = list(make("alternate", accumulate=2).epoch(0))
    assert order_of_tasks(steps) == ["middle", "large", "small"] * 3
    assert [len(step) for step in steps] == [2] * 9
    assert [len(batch["large"]) for step in steps[1::3] for batch in step] == [4, 4, 4, 4, 4, 3]


def test_alternate_with_a_number_of_steps_takes_turns_on_across_epochs():
    sampler = make("alternate", steps_per_epoch=7)
    steps = [step for epoch in range(6) for step in sampler.epoch(epoch)]
    assert order_of_tasks(steps) == ["middle", "large", "small"] * 14
    for task, size in SIZES.items():
        read = examples(steps, task)
        for start in range(0, len(read) - size + 1, size):
            assert sorted(read[start : start + size]) == list(range(size)), "each set goes on where it left off"


@pytest.mark.parametrize("until", ["largest", "smallest"])
def test_sequential_reads_each_set_once_one_after_the_other(until):
    sampler = make("sequential", until=until)
    for epoch in range(2):
        steps = list(sampler.epoch(epoch))
        assert order_of_tasks(steps) == ["middle"] * 3 + ["large"] * 6 + ["small"] * 2
        for task, size in SIZES.items():
            assert sorted(examples(steps, task)) == list(range(size))
    assert [len(step[0]["middle"]) for step in steps[:3]] == [4, 4, 3]


def test_sequential_accumulates_within_one_set():
    steps = list(make("sequential", accumulate=2).epoch(0))
    assert order_of_tasks(steps) == ["middle"] * 2 + ["large"] * 3 + ["small"]
    assert [len(batch["middle"]) for step in steps[:2] for batch in step] == [4, 4, 3]


def test_sequential_divides_a_number_of_steps_in_proportion_and_sets_go_on():
    sampler = make("sequential", steps_per_epoch=9)
    epochs = [list(sampler.epoch(epoch)) for epoch in range(5)]
    for steps in epochs:
        # 9 x 11/39, 23/39, 5/39 = 2.54, 5.31, 1.15
        assert order_of_tasks(steps) == ["middle"] * 3 + ["large"] * 5 + ["small"]
    for task, size in SIZES.items():
        read = [index for steps in epochs for index in examples(steps, task)]
        for start in range(0, len(read) - size + 1, size):
            assert sorted(read[start : start + size]) == list(range(size))


def test_sequential_needs_a_step_for_each_task():
    message = r"^--steps-per-epoch 2: expected at least 3 with --batching sequential, one a task$"
    with pytest.raises(InputError, match=message):
        make("sequential", steps_per_epoch=2)


def test_proportional_batches_are_shares_of_the_sets_in_each_step():
    sizes = {"one": 40, "four": 160, "seven": 280}
    sampler = make("proportional", sizes)
    for accumulate, steps in ((1, 40), (4, 10)):
        sampler = make("proportional", sizes, accumulate=accumulate)
        assert sampler.steps_per_epoch == steps
        read = list(sampler.epoch(1))
        assert {tuple(len(indices) for indices in batch.values()) for step in read for batch in step} == {(1, 4, 7)}
        for task, size in sizes.items():
            assert sorted(examples(read, task)) == list(range(size)), "all are through at the same time"


def test_a_proportional_epoch_ends_when_the_last_set_is_through_and_no_step_lacks_a_task():
    sampler = make("proportional", batch_size=2)  # 6 x 11/39, 23/39, 5/39 = 1.69, 3.54, 0.77
    assert sampler.steps_per_epoch == 8  # of 3 of the 23
    steps = list(sampler.epoch(0))
    assert [tuple(map(len, step[0].values())) for step in steps] == [(2, 3, 1)] * 7 + [(2, 2, 1)]
    assert sorted(examples(steps, "large")) == list(range(23))
    for task in ("middle", "small"):
        assert set(examples(steps, task)) == set(range(SIZES[task]))
    # The small set, of 1 a step, is the first one through.
    assert make("proportional", batch_size=2, until="smallest").steps_per_epoch == 5


@pytest.mark.parametrize("batching", ["joint", "alternate", "proportional"])
def test_a_sampling_weight_multiplies_a_tasks_examples_in_each_batch(batching):
    plain, sampler = make(batching), make(batching, sampling_weights=("small=3", "middle=0.5"))
    step = {task: max(len(batch[task]) for (batch,) in plain.epoch(0)) for task in SIZES}
    found = {task: max(len(batch[task]) for (batch,) in sampler.epoch(0)) for task in SIZES}
    assert found == {"middle": round(step["middle"] / 2), "large": step["large"], "small": 3 * step["small"]}
    passes = len(examples(sampler.epoch(0), "small")) / len(examples(sampler.epoch(0), "large"))
    assert passes == pytest.approx(
        3 * len(examples(plain.epoch(0), "small")) / len(examples(plain.epoch(0), "large")), rel=0.2
    )


def test_a_batch_has_an_example_of_each_task_however_little_one_weighs():
    (batch,) = next(make("joint", sampling_weights=("small=0.01",)).epoch(0))
    assert [len(indices) for indices in batch.values()] == [4, 4, 1]


def test_annealed_frequencies_are_those_of_size_to_the_power_of_alpha():
    sizes, steps, epochs = {"small": 100, "large": 3000, "middle": 700}, 4000, 5
    sampler = make("annealed", sizes, batch_size=1, epochs=epochs, steps_per_epoch=steps)
    for epoch, alpha in enumerate((1.0, 0.8, 0.6, 0.4, 0.2)):
        weights = {task: size**alpha for task, size in sizes.items()}
        counts = Counter(order_of_tasks(sampler.epoch(epoch)))
        for task in sizes:
            share = weights[task] / sum(weights.values())
            assert abs(counts[task] - steps * share) < 4 * np.sqrt(steps * share * (1 - share)), (epoch, task)


def test_annealed_probabilities_level_out_over_the_epochs():
    sampler = AnnealedSampler(SIZES, batch_size=4, accumulate=1, seed=0, epochs=6)
    shares = np.array([sampler.probabilities(epoch) for epoch in range(6)])
    np.testing.assert_allclose(shares[0], [11 / 39, 23 / 39, 5 / 39])
    assert (np.diff(shares[:, 1]) < 0).all()
    assert (np.diff(shares[:, 2]) > 0).all()
    only = AnnealedSampler(SIZES, batch_size=4, accumulate=1, seed=0, epochs=1)
    np.testing.assert_allclose(only.probabilities(0), shares[0])


def test_an_annealed_epoch_has_as_many_steps_as_the_sets_have_batches():
    assert make("annealed").steps_per_epoch == 3 + 6 + 2
    assert make("annealed", accumulate=2).steps_per_epoch == 2 + 3 + 1
    assert make("annealed", until="smallest", steps_per_epoch=50).steps_per_epoch == 50


def test_annealed_sets_go_on_where_they_left_off():
    sampler = make("annealed", accumulate=2, epochs=6)
    steps = [step for epoch in range(6) for step in sampler.epoch(epoch)]
    order_of_tasks(steps)
    for task, size in SIZES.items():
        read = examples(steps, task)
        assert len(read) >= size
        for start in range(0, len(read) - size + 1, size):
            assert sorted(read[start : start + size]) == list(range(size))


def test_annealed_draws_differ_between_epochs():
    sampler = make("annealed", {"one": 10, "other": 10}, steps_per_epoch=40)
    assert order_of_tasks(sampler.epoch(0)) != order_of_tasks(sampler.epoch(1))


@pytest.mark.parametrize(
    ("total", "sizes", "expected"),
    [
        (12, (40, 160, 280), (1, 4, 7)),
        (10, (1, 1, 1), (4, 3, 3)),
        (24, (283000, 8000, 6000), (22, 1, 1)),
        (3, (100, 1, 1), (1, 1, 1)),
        (96, (141505, 8545, 6041), (87, 5, 4)),
        # Alone, 6 x 14/84 = 1: but the smallest takes from it, and it would have less than 1.
        (6, (69, 14, 1), (4, 1, 1)),
    ],
)
def test_parts_are_in_proportion_and_none_is_zero(total, sizes, expected):
    parts = divide_in_proportion(total, dict(enumerate(sizes)))
    assert tuple(parts.values()) == expected
    assert sum(parts.values()) == total


def test_parts_are_the_shares_rounded_down_or_up_where_every_share_is_at_least_one():
    generator = np.random.default_rng(0)
    for _ in range(200):
        sizes = {str(number): int(size) for number, size in enumerate(generator.integers(50, 100, size=4))}
        total = int(generator.integers(8, 200))
        parts = divide_in_proportion(total, sizes)
        shares = {task: Fraction(total * size, sum(sizes.values())) for task, size in sizes.items()}
        assert sum(parts.values()) == total
        assert all(0 <= abs(parts[task] - share) < 1 for task, share in shares.items())
        up = [share % 1 for task, share in shares.items() if parts[task] > share]
        down = [share % 1 for task, share in shares.items() if parts[task] <= share and share % 1]
        assert not up or not down or min(up) >= max(down), "the largest remainders are rounded up"
