"""Batchings of the user's own are checked in every step."""

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train import run
from concord.train.data.batching import build_sampler
from tests.settings import fine_tuning
from tests.train.small_runs import command, refused
from tests.train.test_own_entries import steps_of

pytestmark = pytest.mark.usefixtures("without_pictures")

SIZES = {"sst": 6, "sts": 9}
BATCHING = """
import numpy as np
from concord.train.data.sampler import Sampler
class Mine(Sampler):
    steps_per_epoch = {steps}
    def _examples(self, epoch, step):
        return {examples}
def batching(sizes, plan):
    return Mine(sizes, batch_size=plan.batch_size, accumulate=plan.accumulate, seed=plan.seed)
"""
EPOCH = """
    def epoch(self, epoch, start=0):
        return iter({})
"""
SOUND = "{'sts': np.arange(3)}"


def batching(examples=SOUND, steps=4, epoch=None):
    module = BATCHING.format(examples=examples, steps=steps)
    return module.replace("def batching", EPOCH.format(epoch) + "def batching") if epoch else module


def sampler():
    return build_sampler(fine_tuning(tasks=tuple(SIZES), batching="mine:batching", batch_size=4).batches, SIZES)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (
            batching("{'sts': np.array([3, 9])}"),
            "at step 1 of epoch 1 it gave example 9 of sts",
        ),
        (batching("{'sts': np.array([-1])}"), "it gave example -1 of sts, expected numbers from 0 to 8"),
        (
            batching("{'sts': np.arange(3.0)}"),
            "it gave float64 [3] for sts, expected an array of whole numbers",
        ),
        (batching("{'sts': np.ones(3, dtype=bool)}"), "it gave bool [3] for sts, expected an array of whole numbers"),
        (
            batching("{'sts': np.ones((3, 1), dtype=int)}"),
            "it gave int64 [3, 1] for sts, expected an array",
        ),
        (batching("{'sts': [0, 1]}"), "it gave a list for sts, expected an array of whole numbers"),
        (batching("None"), "it gave a NoneType, expected a dict of arrays by task"),
        (batching("1 / 0"), "mine:batching: its call raised ZeroDivisionError: division by zero (mine.py:7)"),
        (batching("{}"), "it gave no examples of any task, expected at least one"),
        (batching("{'sts': np.arange(0)}"), "it gave no examples of any task, expected at least one"),
        (batching("{'none': np.arange(3), **" + SOUND + "}"), "it gave examples of 'none', expected tasks of sst, sts"),
        (batching("{'sts': np.arange(3) + 3 * step}"), "at step 4 of epoch 1 it gave example 9 of sts"),
        (batching(steps="2.5"), "mine:batching: its steps_per_epoch is 2.5, expected a whole number of at least 1"),
        (batching(steps="0"), "its steps_per_epoch is 0, expected a whole number of at least 1"),
        (batching(steps="True"), "its steps_per_epoch is True, expected a whole number of at least 1"),
        (batching(epoch="[[{'none': np.arange(2)}]]"), "it gave examples of 'none', expected tasks of sst, sts"),
        (batching(epoch="[[]]"), "it gave no examples of any task, expected at least one"),
        (batching(epoch="[]"), "at step 1 of epoch 1 it gave nothing, expected 4 steps an epoch"),
        (batching(epoch="3"), "mine:batching: its call raised TypeError: 'int' object is not iterable"),
    ],
)
def test_a_batching_whose_steps_cannot_be_trained_is_refused_before_training(write, module, expected):
    write("mine", module)
    with pytest.raises(InputError) as error:
        sampler()
    assert expected in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ("{'sts': np.arange(3) + 7 * (step == 1)}", "at step 2 of epoch 1 it gave example 9 of sts"),
        ("{'sts': np.arange(step != 1)}", "at step 2 of epoch 1 it gave no examples of any task"),
        ("{'sts': np.arange(6 // (step != 1))}", "its call raised ZeroDivisionError"),
    ],
)
def test_a_later_step_of_a_batching_is_checked_as_well(write, examples, expected):
    write("mine", batching(examples))
    steps = sampler().epoch(0)
    next(steps)
    with pytest.raises(InputError, match=expected):
        next(steps)


def test_an_epoch_that_a_batching_ends_too_soon_is_noticed(write):
    write("mine", batching(epoch="[[{'sts': np.arange(2)}]] * 3"))
    steps = sampler().epoch(0)
    assert len([next(steps) for _ in range(3)]) == 3
    with pytest.raises(InputError, match="at step 4 of epoch 1 it gave nothing, expected 4 steps an epoch"):
        next(steps)


@pytest.mark.parametrize("dtype", ["np.int32", "np.uint8", "np.int64"])
def test_whole_numbers_of_any_width_are_read_as_int64_and_the_steps_are_a_plain_number(write, dtype):
    write("mine", batching(f"{{'sts': np.arange(3, dtype={dtype}) + {dtype}(step)}}", steps="np.int64(4)"))
    found = sampler()
    assert type(found.steps_per_epoch) is int
    for step, (batch,) in enumerate(found.epoch(1, 2), 2):
        assert list(batch) == list(SIZES)
        assert {indices.dtype for indices in batch.values()} == {np.dtype(np.int64)}
        assert batch["sts"].tolist() == [step, step + 1, step + 2]
    assert step == 3


def test_a_wrong_step_of_a_batching_and_a_late_one_end_a_run_in_one_line(data, tmp_path, capsys, write):
    write("mine", batching("{'sts': np.array([99])}"))
    words = ("--batching", "mine:batching", "--kernels", "torch")
    assert "it gave example 99 of sts" in refused(capsys, run.main, command(data, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()
    write("mine", batching("{'sts': np.arange(2) + 99 * (step == 2)}"))
    assert "at step 3 of epoch 1" in refused(capsys, run.main, command(data, tmp_path / "run", *words))
    assert [entry["step"] for entry in steps_of(tmp_path / "run")] == [1, 2]
