"""Learning rates over a run."""

import pytest

from concord.bert.errors import InputError
from concord.train.settings.config import RunConfig
from concord.train.steps.schedule import Schedule
from tests.settings import fine_tuning


def factors(total=20, steps_per_epoch=4, **settings):
    schedule = Schedule(fine_tuning(**settings).optimizer.schedule, total_steps=total, steps_per_epoch=steps_per_epoch)
    return [schedule.factor(step) for step in range(total)]


def test_linear_rises_over_the_warm_up_and_falls_to_zero():
    found = factors(warmup=0.2)
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[5] == pytest.approx(15 / 16)
    assert found[-1] == pytest.approx(1 / 16)
    assert factors(warmup=0.0)[0] == 1.0


def test_constant_stays():
    assert factors(schedule="constant", warmup=0.1) == [0.5] + [1.0] * 19


def test_milestones_multiply_the_rates_from_the_end_of_their_epochs_on():
    found = factors(schedule="milestones", milestones=("1", "3"), decay=0.5, warmup=0.0)
    assert found == [1.0] * 4 + [0.5] * 8 + [0.25] * 8


@pytest.mark.parametrize("milestones", [("soon",), ("-1",), ("1.5",)])
def test_a_milestone_that_is_no_epoch_is_refused(milestones):
    with pytest.raises(InputError, match=f"--milestones {milestones[0]}"):
        RunConfig(schedule="milestones", milestones=milestones)


@pytest.mark.parametrize("settings", [{"schedule": "milestones"}, {"milestones": ("2",)}])
def test_milestones_and_their_schedule_need_each_other(settings):
    with pytest.raises(InputError, match="--milestones"):
        RunConfig(**settings)


def test_stages_say_what_each_epoch_trains():
    batches = fine_tuning(stages=("heads:1", "all:2", "heads:2"), epochs=5).batches
    assert batches.trained == ["heads", "all", "all", "heads", "heads"]
    assert fine_tuning(stages=("heads",), epochs=2).batches.trained == ["heads", "heads"]


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        (("tails:3",), "expected all or heads"),
        (("heads:0", "all:3"), "expected a number of epochs"),
        (("heads", "all:3"), "expected a number of epochs"),
        (("heads:1", "all:3"), "4 epochs, but --epochs 3"),
        ((), "expected at least one"),
    ],
)
def test_stages_that_do_not_make_the_run_are_refused(stages, reason):
    with pytest.raises(InputError, match=f"--stages.*{reason}"):
        RunConfig(stages=stages, epochs=3)
