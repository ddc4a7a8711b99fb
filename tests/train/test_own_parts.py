"""Batchings and heads of the user's own are checked in every step, and a head keeps no state that is not saved."""

import copy

import numpy as np
import pytest
import torch

from concord.bert.errors import InputError
from concord.bert.heads import Head, HeadSpec, linear_head
from concord.bert.model_files import read_weights
from concord.train import run
from concord.train.command import run_command
from concord.train.data.batching import build_sampler
from concord.train.objectives.own import own_head
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
HEAD = """
import torch
from concord.bert.heads import Head
class Mine(Head):
    calls = 0
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        {made}
    def forward(self, pooled, dropouts):
        self.calls += 1
        logits = super().forward(pooled, dropouts)
        return {given}
def head(spec):
    options = dict(dropout=spec.dropout, link=spec.link, pair=spec.pair, has_threshold=spec.has_threshold)
    return Mine(spec.hidden_size, spec.outputs, **options)
"""
SOUND = "{'sts': np.arange(3)}"


def batching(examples=SOUND, steps=4, epoch=None):
    module = BATCHING.format(examples=examples, steps=steps)
    return module.replace("def batching", EPOCH.format(epoch) + "def batching") if epoch else module


def head(made="pass", given="logits"):
    return HEAD.format(made=made, given=given)


def sampler():
    return build_sampler(fine_tuning(tasks=tuple(SIZES), batching="mine:batching", batch_size=4).batches, SIZES)


def spec(**more):
    settings = {"pair": False, "pair_features": "difference", "dropout": 0.0, "link": None}
    return HeadSpec(build=linear_head, hidden_size=8, outputs=3, **settings | more)


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
        (batching("{'sts': np.arange(5)}"), "it gave 5 examples of sts, expected at most 4 a step"),
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
        ("{'sts': np.arange(3 // (step != 1))}", "its call raised ZeroDivisionError"),
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


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            "self.bn = torch.nn.BatchNorm1d(64)",
            "its buffer 'bn.running_mean' and 2 more would not be saved",
        ),
        (
            "self.register_buffer('mean', torch.zeros(64))",
            "its buffer 'mean' would not be saved",
        ),
    ],
)
def test_a_head_with_a_state_that_no_run_saves_is_refused_before_training(
    data, tmp_path, capsys, write, made, expected
):
    write("mine", head(made))
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--heads", "sst=mine:head"))
    assert f"mine:head: {expected}" in message
    assert "persistent=False" in message
    assert len(message) < 300
    assert not (tmp_path / "run").exists()


def test_a_head_may_have_constants_and_the_threshold_and_a_run_keeps_the_threshold_alone(data, tmp_path, write):
    write("mine", head("self.register_buffer('order', torch.arange(3), persistent=False)"))
    flags = ("--heads", "paraphrase=mine:head", "--threshold", "dev", "--max-steps", "2")
    assert run_command(run.main, command(data, tmp_path / "run", *flags, "--kernels", "torch")) == 0
    names = {name for name in read_weights(tmp_path / "run" / "best")[1] if name.startswith("heads.paraphrase.")}
    assert names == {f"heads.paraphrase.{name}" for name in ("weight", "bias", "threshold")}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("logits if self.calls < 2 else logits[:-1]", r"mine:head: its logits are \[3, 3\], expected \[4, 3\]"),
        ("logits if self.calls < 2 else 1 / 0", r"its call raised ZeroDivisionError: division by zero \(mine.py:12\)"),
        ("logits if self.calls < 2 else None", r"its logits are a NoneType, expected a floating-point tensor \[4, 3\]"),
        (
            "logits if self.calls < 2 else logits.long()",
            r"its logits are torch.int64, expected a floating-point",
        ),
    ],
)
@pytest.mark.parametrize("pair", [False, True])
def test_a_head_that_fails_in_a_later_step_says_so_in_one_line(write, given, expected, pair):
    write("mine", head(given=given))
    built = own_head("mine:head")(spec(pair=pair))
    with pytest.raises(InputError, match=expected):
        built(torch.zeros(8 if pair else 4, 8), None)


def test_a_head_of_ones_own_stays_what_it_is_and_its_copy_has_its_own_weights(write):
    write("mine", head())
    built = own_head("mine:head")(spec())
    assert isinstance(built, Head)
    assert list(built.state_dict()) == ["weight", "bias"]
    copied = copy.deepcopy(built)
    with torch.no_grad():
        built.weight.zero_()
        built.bias.zero_()
        copied.weight.fill_(1.0)
        copied.bias.zero_()
    pooled = torch.ones(2, 8)
    assert built(pooled, None).tolist() == [[0.0] * 3] * 2
    assert copied(pooled, None).tolist() == [[8.0] * 3] * 2
