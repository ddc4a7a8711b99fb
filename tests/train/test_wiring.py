"""What settings ask for reaches what is computed: rates, decay, seeds, random numbers, averages, gradients' formats."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from concord.kernels.dropout import DropoutStream
from concord.train import run
from concord.train.command import run_command
from concord.train.objectives.objectives import Objective
from concord.train.runs.fine_tuning import FineTuning
from concord.train.steps import build
from concord.train.steps.build import gradient_dtype
from concord.train.steps.precision import Precision
from concord.train.steps.weightings import surgery_settings
from tests.settings import fine_tuning
from tests.train.small_runs import command
from tests.train.test_frozen import CPU, SPLITS, TASKS, make


def test_a_step_moves_the_weights_by_the_rate_of_the_schedule():
    model, trainer = make(surgery="none", warmup=0.5, weight_decay=0.0, clip=0.0)
    before = model.shared.master.clone()
    result = next(trainer.epoch(0))
    assert 0 < result.learning_rate < 1e-3
    # AdamW's first step moves each weight that has a gradient by the rate itself.
    assert (model.shared.master - before).abs().max().item() == pytest.approx(result.learning_rate, rel=1e-2)


def test_the_weight_decay_is_the_optimizers():
    config = fine_tuning(weight_decay=0.3)
    assert surgery_settings(config.surgery, config.optimizer, scaling=False).weight_decay == 0.3


def test_class_weights_are_those_of_the_tasks_losses(monkeypatch):
    monkeypatch.setattr(build, "Trainer", lambda model, optimizer, objectives, *_, **__: objectives)
    split = replace(SPLITS["sst"], task=replace(TASKS[0], class_weights={"0": 2.0}))
    objectives = build.build_trainer(fine_tuning(tasks=("sst",)), None, None, {"sst": split}, CPU)
    assert objectives["sst"].class_weights.tolist() == [2.0, 1.0, 1.0, 1.0, 1.0]


def test_new_weights_come_from_the_runs_seed_and_the_case_is_the_one_that_is_chosen():
    assert [fine_tuning(seed=seed).model.seed for seed in (1, 7)] == [1, 7]
    chosen = [fine_tuning(lower_case=choice).model.lower_case for choice in ("auto", "yes", "no")]
    assert chosen == [None, True, False]


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, torch.bfloat16),
        ({"accumulate": 2}, torch.float32),
        ({"accumulate": "auto"}, torch.float32),
        ({"micro_batch": 2}, torch.float32),
        ({"smart": ("1",)}, torch.float32),
    ],
)
def test_gradients_that_add_up_are_kept_in_fp32(settings, dtype):
    precision = Precision(CPU, torch.bfloat16, scaling=False, reason="")
    assert gradient_dtype(fine_tuning(**settings), precision) == dtype


def test_each_step_and_each_part_of_it_draws_dropout_anew(monkeypatch):
    drawn, call = [], DropoutStream.__call__

    def watched(stream, rate):
        dropout = call(stream, rate)
        drawn.extend([] if dropout is None else [(int(dropout.seed), dropout.site)])
        return dropout

    monkeypatch.setattr(DropoutStream, "__call__", watched)
    _, trainer = make(accumulate=2, max_steps=3)
    assert len(list(trainer.epoch(0))) == 3
    assert len(drawn) > 3 * 2
    assert len(set(drawn)) == len(drawn)


def test_losses_are_told_which_epoch_it_is(monkeypatch):
    told, loss = [], Objective.loss

    def watched(self, *arguments, epoch, **more):
        told.append(epoch.item())
        return loss(self, *arguments, epoch=epoch, **more)

    monkeypatch.setattr(Objective, "loss", watched)
    _, trainer = make()
    for number in (0, 1):
        list(trainer.epoch(number))
    assert sorted(set(told)) == [0.0, 1.0]


@pytest.mark.slow
def test_what_is_judged_is_the_average_of_the_weights(data, tmp_path, monkeypatch, without_pictures):
    judged, judge = [], FineTuning._judge

    def watched(self, *arguments):
        judged.append(self.optimizer.shared.master.clone())
        return judge(self, *arguments)

    monkeypatch.setattr(FineTuning, "_judge", watched)
    out, more = tmp_path / "run", ("--average", "0.9", "--learning-rate", "1e-2", "--epochs", "1")
    assert run_command(run.main, command(data, out, *more)) == 0
    state = load_file(out / "last.safetensors")
    assert torch.equal(judged[-1], state["shared.average"])
    assert not torch.equal(judged[-1], state["shared.master"])
