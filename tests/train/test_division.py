"""Batches that are divided into micro-batches: by their size, or into the fewest that fit into memory."""

import shutil
import sys

import numpy as np
import pytest
import torch

from concord.bert.errors import InputError
from concord.train import pretrain, run
from concord.train.command import run_command
from concord.train.flags import build_parser, config_from
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config, toml_of, write_config
from concord.train.settings.settings_file import read_settings_file
from concord.train.steps import division
from concord.train.steps.division import Division
from tests.assertions import assert_close
from tests.train.ranks.parity import build, steps_of, whole_master
from tests.train.small_memory import memory_for
from tests.train.small_runs import command, refused
from tests.train.test_run import entries, same_state, stop_at

STEPS = 3
PCGRAD = {"surgery": "pcgrad"}


def trained(limit=sys.maxsize, steps=STEPS, *, backward=False, dropout=0.0, **settings):
    """The trainer after some steps, and each step's losses and Gram matrices."""
    trainer, found = build({**PCGRAD, **settings}, None, dropout=dropout), []
    with memory_for(limit, backward=backward):
        for result in steps_of(trainer, steps):
            found.append(torch.cat([torch.stack(list(result.losses.values())).double(), result.plan.gram.flatten()]))
    return trainer, torch.stack(found)


def tokens_of(trainer, number):
    """Of the largest micro-batch of each of the first steps, where a batch is divided into so many."""
    division = Division(fitted=True)
    division.number = number
    steps = list(trainer.sampler.epoch(0))[:STEPS]
    return [max(map(trainer._tokens_of, division.divide(batches))) for batches in steps]


def test_each_example_is_in_one_part_and_no_part_has_more_than_asked_for():
    batch = {"a": np.arange(7), "b": np.arange(3), "c": np.arange(0)}
    parts = Division(micro_batch=3).divide([batch])
    assert [[len(own) for own in part.values()] for part in parts] == [[3, 1, 0], [2, 1, 0], [2, 1, 0]]
    for task, own in batch.items():
        assert np.array_equal(np.concatenate([part[task] for part in parts]), own)
    assert [len(part["a"]) for part in Division(micro_batch=7).divide([batch])] == [7]
    assert [len(part["a"]) for part in Division(micro_batch=2, ranks=TwoRanks()).divide([batch])] == [4, 3]


def test_batches_that_nobody_divides_stay_as_they_are():
    batches = [{"a": np.arange(7)}, {"a": np.arange(2)}]
    assert Division().divide(batches) == batches


def test_a_divided_batch_is_that_many_smaller_ones_to_the_bit():
    divided, found = trained(batch_size=4, micro_batch=2, dropout=0.1)
    plain, expected = trained(batch_size=2, accumulate=2, dropout=0.1)
    assert torch.equal(found, expected)
    assert torch.equal(whole_master(divided), whole_master(plain))


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("backward", [False, True], ids=["in-the-forward", "in-the-backward"])
def test_the_number_is_doubled_until_a_batch_fits_and_what_has_failed_leaves_nothing(number, backward):
    whole, exact = trained(batch_size=4)
    limit = max(tokens_of(whole, number))
    assert tokens_of(whole, number // 2)[0] > limit, "the first step finds the number"
    fitted, found = trained(limit, batch_size=4, accumulate="auto", backward=backward)
    assert fitted.division.number == number
    assert_close(found, exact, 1e-5)
    assert_close(whole_master(fitted), whole_master(whole), 1e-5)
    divided, expected = trained(batch_size=4, micro_batch=4 // number)
    assert torch.equal(found, expected)
    assert torch.equal(whole_master(fitted), whole_master(divided))


def test_a_batch_that_fits_is_not_divided():
    fitted, found = trained(batch_size=4, accumulate="auto")
    assert fitted.division.number == 1
    assert torch.equal(found, trained(batch_size=4)[1])


def test_a_later_batch_that_is_too_large_doubles_the_number_from_that_step_on():
    whole, exact = trained(batch_size=4)
    sizes = tokens_of(whole, 1)
    assert max(sizes) > sizes[0], "a later step is larger than the first"
    fitted, found = trained(sizes[0], batch_size=4, accumulate="auto")
    assert fitted.division.number > 1
    assert torch.equal(found[0], exact[0])
    assert_close(found, exact, 1e-5)


def test_where_one_example_of_each_task_is_too_much_one_line_says_so():
    with pytest.raises(InputError, match=r"one example of each task .*as it were.*expected a smaller --max-length"):
        trained(3, batch_size=4, accumulate="auto")


def test_another_error_of_a_trial_is_raised_as_it_is():
    tried = Division(fitted=True)
    tried.begin(5)
    with pytest.raises(RuntimeError, match="a shape"):
        tried.attempt(lambda: (_ for _ in ()).throw(RuntimeError("a shape")))


def test_without_a_trial_out_of_memory_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError):
        trained(3, batch_size=4)


class TwoRanks:
    """The first of two, of which the other says what it is told to."""

    size = 2

    def __init__(self, *others):
        self.others = list(others)

    def add_up_on_host(self, values):
        return values + self.others.pop(0)


def test_ranks_try_only_steps_that_are_larger_than_all_that_have_fitted():
    tried = Division(fitted=True, ranks=TwoRanks(0, 1, 0))
    trials = []
    for tokens, fits in ((10, True), (9, True), (10, True), (12, False), (6, True), (11, True)):
        tried.begin(tokens)
        trials.append(tried.trial)
        if fits:
            assert tried.attempt(lambda: "made") == "made"
        else:
            with pytest.raises(division.DoesNotFit, match="another process"):
                tried.attempt(lambda: "made")
    assert trials == [True, False, False, True, False, True]


def test_frozen_steps_are_no_trials():
    fitted, _ = trained(10**6, batch_size=4, accumulate="auto", stages=("heads:1", "all:9"), steps=2)
    assert not fitted.division.trial
    assert fitted.division._fitting == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"micro_batch": 3, "accumulate": 2}, "--micro-batch 3: expected no --accumulate 2 beside it"),
        ({"micro_batch": 3, "accumulate": "auto"}, "--micro-batch 3: expected no --accumulate auto beside it"),
        ({"micro_batch": 33}, "--micro-batch 33: expected 32 at most, the --batch-size"),
        ({"micro_batch": -1}, "--micro-batch -1: expected at least 0"),
        ({"accumulate": "all"}, "--accumulate 'all': expected a whole number, or auto"),
        ({"accumulate": 0}, "--accumulate 0: expected at least 1, or auto"),
        ({"accumulate": True}, "--accumulate True: expected a whole number, or auto"),
        ({"accumulate": 1.0}, "--accumulate 1.0: expected a whole number, or auto"),
    ],
)
def test_what_contradicts_each_other_is_one_line(settings, expected):
    with pytest.raises(InputError) as error:
        RunConfig(**settings)
    assert str(error.value) == expected


def test_a_file_and_the_flags_say_auto(tmp_path):
    config = config_from(build_parser().parse(["--accumulate", "auto"]))
    assert config.accumulate == "auto"
    assert config_from(build_parser().parse(["--accumulate", "3"])).accumulate == 3
    write_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config
    (tmp_path / "own.toml").write_text(toml_of(config))
    assert read_settings_file(tmp_path / "own.toml").settings["accumulate"] == "auto"


@pytest.mark.parametrize("settings", [{"accumulate": "auto"}, {"micro_batch": 2}])
def test_losses_that_compare_a_batchs_examples_are_refused(settings):
    with pytest.raises(InputError, match=r"--(accumulate auto|micro-batch 2): a loss of the task sts compares"):
        build({**PCGRAD, "losses": ("auto", "sts=auto+mnrl-label"), **settings}, None)


def test_more_micro_batches_than_streams_are_refused(monkeypatch):
    monkeypatch.setattr(division, "STREAMS", 3)
    with pytest.raises(InputError, match="--micro-batch 1: 4 micro-batches a step, expected 3 at most"):
        trained(batch_size=4, micro_batch=1)


def test_a_pre_training_refuses_auto(capsys):
    assert "it is of train.run" in refused(capsys, pretrain.main, ["--accumulate", "auto"])


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_resumed_run_has_the_number_that_was_found(data, tmp_path, capsys, monkeypatch):
    arguments = command(data, tmp_path / "whole", "--accumulate", "auto", "--max-steps", "4")
    with memory_for(60):
        assert run_command(run.main, arguments) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch ")]
    assert said == ["batch      computed in 4 micro-batches: half as many do not fit into memory"]
    stop_at(monkeypatch, 2)
    stopped = tmp_path / "stopped"
    with memory_for(60):
        assert run_command(run.main, command(data, stopped, *arguments[arguments.index("--accumulate") :])) == 130
    stop_at(monkeypatch, 0)
    shutil.copytree(stopped, tmp_path / "again")
    assert run_command(run.main, ["--resume", str(stopped)]) == 0  # with all the memory there is
    assert same_state(stopped, tmp_path / "whole")
    assert entries(stopped) == entries(tmp_path / "whole")
