"""Runs that cannot learn: they end, name the task, and leave no best model; and sets whose scores mean nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train import pretrain, run
from concord.train.command import run_command
from concord.train.data.tasks import select_tasks
from concord.train.objectives.objectives import Objective
from concord.train.objectives.undefined import weak_answers, weak_labels
from concord.train.runs.skipping import check_learns
from tests.samples import write_small_model
from tests.train.small_runs import command, refused

SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.parametrize(
    ("skipped", "scale", "scaling", "ends"),
    [
        (49, 1.0, False, False),
        (50, 1.0, False, True),
        (50, 2.0**-34, True, True),
        (50, 1.0, True, False),  # a scale that had grown can still adapt
        (51, 0.5, True, True),
        (0, 0.5, True, False),
    ],
)
def test_a_run_ends_after_fifty_skipped_steps_in_a_row_once_no_loss_scale_can_adapt(
    tmp_path, skipped, scale, scaling, ends
):
    def check():
        check_learns(tmp_path, ["sst", "sts"], [skipped, 7, 1], scale, scaling=scaling)

    if not ends:
        check()
        return
    expected = (
        rf"the gradient of task sts was not finite in step 7, and nothing was learned in the {skipped} steps from"
    )
    with pytest.raises(InputError, match=expected):
        check()


@pytest.fixture
def spoil(monkeypatch):
    """Makes the loss of a task NaN from a call on."""
    loss = Objective.loss

    def spoil_from(task, call):
        calls = 0

        def spoilt(self, *arguments, **more):
            nonlocal calls
            minimised, logged = loss(self, *arguments, **more)
            if self.task.name == task:
                calls += 1
                if calls >= call:
                    minimised = minimised * float("nan")
            return minimised, logged

        monkeypatch.setattr(Objective, "loss", spoilt)

    return spoil_from


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "flags"), [(1, ()), (20, ("--amp", "fp16"))])
def test_a_run_whose_every_step_is_skipped_ends_within_a_log_interval_and_names_the_task(
    data, tmp_path, capsys, spoil, interval, flags
):
    spoil("paraphrase", 3)
    out = tmp_path / "run"
    arguments = command(data, out, "--epochs", "1000", "--steps-per-epoch", "100", "--log-every", str(interval), *flags)
    message = refused(capsys, run.main, [*arguments, "--evaluate-every", "0"])
    assert "the gradient of task paraphrase was not finite in step 3, and nothing was learned" in message
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert 52 <= steps[-1] < 52 + interval
    assert not (out / "best").exists()


@pytest.mark.slow
def test_a_model_that_no_step_has_changed_is_not_the_best_one(data, tmp_path, capsys, spoil):
    spoil("sts", 1)
    out = tmp_path / "run"
    message = refused(capsys, run.main, command(data, out, "--max-steps", "4", "--evaluate-every", "2"))
    assert (
        "task sts was not finite in step 1, and nothing was learned in the 4 steps from there on, so that no" in message
    )
    assert not (out / "best").exists()
    assert not list(out.glob("*predictions.csv"))


@pytest.mark.slow
def test_the_best_step_is_one_that_was_applied(data, tmp_path, spoil):
    spoil("sst", 3)
    out = tmp_path / "run"
    assert run_command(run.main, command(data, out, "--max-steps", "4")) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["best_step"], summary["skipped_steps"], summary["steps"]) == (2, 2, 4)


@pytest.mark.slow
def test_a_pre_training_that_cannot_learn_ends_too(tmp_path, capsys):
    model = write_small_model(tmp_path / "model", ["a", "film", "good"])
    (tmp_path / "texts").write_text("".join(f"a good film {'a ' * number}\n" for number in range(40)))
    rates = ("--learning-rate", "1e30", "--head-learning-rate", "1e30", "--weight-decay", "0", "--warmup", "0")
    message = refused(
        capsys,
        pretrain.main,
        [
            *("--data", tmp_path / "texts", "--model", model, "--out", tmp_path / "out", "--device", "cpu"),
            *("--epochs", "200", "--batch-size", "4", "--accumulate", "1", "--log-every", "5", *rates),
        ],
    )
    assert "not finite in step" in message
    assert "nothing was learned in the 5" in message
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_labels_that_are_all_one_are_said():
    same, two = np.full(4, 2.0, np.float32), np.array([0, 1, 1], np.float32)
    assert weak_labels(SST, "train", same) == (
        "sst train: every label is 2, so that there is nothing to learn but to answer so"
    )
    assert "whoever always answers so has the best score" in weak_labels(SST, "dev", same)
    assert "correlations with it are undefined" in weak_labels(STS, "dev", same)
    assert "undefined" in weak_labels(STS, "dev", same[:1])
    for task in (SST, PARAPHRASE, replace(STS, low=-1.0)):
        assert weak_labels(task, "dev", two) == weak_labels(task, "train", two) == ""


def test_answers_without_a_score_are_said():
    sound, errors = np.array([1.0, 2.0]), np.zeros(2)
    assert weak_answers(STS, sound, errors) == weak_answers(SST, np.ones(2), errors) == ""
    assert "answers 2 to every dev example, so that correlations are undefined" in weak_answers(
        STS, np.full(2, 2.0), errors
    )
    assert "sst: the model's answers to the dev set are not finite" in weak_answers(SST, sound, np.array([0, np.nan]))


@pytest.mark.slow
def test_a_run_warns_of_answers_that_are_all_one(data, tmp_path, capsys):
    header, *rows = (data / "sts-dev.csv").read_text().splitlines()
    cells = [row.split("\t") for row in rows]
    same = ["\t".join([index, name, "I saw it .", "It was seen .", label]) for index, name, _, _, label in cells]
    (data / "sts-dev.csv").write_text("\n".join([header, *same]) + "\n")
    assert run_command(run.main, command(data, tmp_path / "run", "--max-steps", "1")) == 0
    assert "to every dev example, so that correlations are undefined and count as 0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_warns_of_a_dev_set_of_one_class(data, tmp_path, capsys):
    for name, label in (("ids-sst-dev.csv", "3"), ("sts-dev.csv", "1.5")):
        header, *rows = (data / name).read_text().splitlines()
        rows = [row.rpartition("\t")[0] + "\t" + label for row in rows]
        (data / name).write_text("\n".join([header, *rows]) + "\n")
    assert run_command(run.main, command(data, tmp_path / "run", "--max-steps", "1")) == 0
    printed = capsys.readouterr().out
    assert "warning: sst dev: every label is 3" in printed
    assert "warning: sts dev: every label is 1.5" in printed
