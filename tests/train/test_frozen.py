"""Stages of the heads alone: the encoder stays as it is, and its outputs are computed once."""

import json
import signal

import numpy as np
import pytest
import torch

from concord.bert.errors import InputError
from concord.train import run
from concord.train.command import INTERRUPTED, run_command
from concord.train.data.batches import gather
from concord.train.data.tasks import select_tasks
from concord.train.reporter import SILENT, Reporter
from concord.train.settings.config import RunConfig
from concord.train.steps import frozen
from concord.train.steps.build import build_model, build_optimizer, build_trainer
from concord.train.steps.frozen import FrozenBatches
from concord.train.steps.loop import Trainer
from concord.train.steps.precision import choose_precision
from tests.samples import random_split, small_encoder
from tests.settings import fine_tuning
from tests.train.small_runs import command
from tests.train.told import Told

CPU = torch.device("cpu")
TASKS = select_tasks(["sst", "paraphrase", "sts"], None)
SPLITS = {
    task.name: random_split(task, 20 + 3 * place, per_example=2 if task.pair else 1, seed=place)
    for place, task in enumerate(TASKS)
}
for split in SPLITS.values():
    split.labels[:] %= 2


def scores(out):
    """The evaluations of the run in a folder."""
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["dev"]) for line in lines if line["event"] == "evaluation"]


def make(reporter=SILENT, **settings):
    settings = {
        "pair_encoding": ("separate",),
        "batch_size": 4,
        "epochs": 2,
        "average": 0.0,
        "surgery": "pcgrad",
    } | settings
    config = fine_tuning(learning_rate=1e-3, **settings)
    precision = choose_precision("cpu", "off")
    model = build_model(config, TASKS, small_encoder(), precision)
    return model, build_trainer(
        config, model, build_optimizer(config, model, precision), SPLITS, CPU, reporter=reporter
    )


def encoder_of(model):
    return {name: value.clone() for name, value in model.shared.values().items() if not name.startswith("shared_layer")}


def moved(model, before):
    return {name for name, value in encoder_of(model).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("settings", [{}, {"pooling": "mean"}, {"shared_layer": ("paraphrase", "sts")}])
def test_cached_outputs_are_those_that_the_encoder_computes_for_a_batch(settings):
    model, _ = make(**settings)
    examples = {"sst": np.array([0, 3, 7, 19]), "paraphrase": np.array([], dtype=np.int64), "sts": np.array([1, 25])}
    batches = FrozenBatches(model, SPLITS, examples, CPU)
    micro_batch = {"sst": np.array([3, 0, 19]), "paraphrase": np.array([], dtype=np.int64), "sts": np.array([25, 1])}
    cached, whole = batches.gather(micro_batch), gather(SPLITS, micro_batch)
    found, expected = model(cached.packed), model(whole.packed)
    assert found.keys() == expected.keys() == {"sst", "sts"}
    for task in found:
        torch.testing.assert_close(found[task].logits, expected[task].logits, rtol=1e-5, atol=1e-6)
        assert torch.equal(cached.labels[task], whole.labels[task])


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "gradvac"])
def test_a_frozen_encoder_does_not_move_and_the_heads_learn(surgery):
    model, trainer = make(stages=("heads",), surgery=surgery, epochs=4)
    before, heads = encoder_of(model), model.private.master.clone()
    losses = [
        sum(loss.item() for loss in result.losses.values()) for epoch in range(4) for result in trainer.epoch(epoch)
    ]
    assert moved(model, before) == set()
    assert not torch.equal(model.private.master, heads)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_stages_freeze_the_encoder_and_let_it_go_again():
    model, trainer = make(stages=("heads:1", "all:1", "heads:1"), epochs=3)
    for epoch, moves in enumerate((False, True, False)):
        before = encoder_of(model)
        for _ in trainer.epoch(epoch):
            pass
        assert bool(moved(model, before)) == moves


def test_the_second_frozen_stage_reads_what_the_encoder_has_become():
    _, trainer = make(stages=("heads:1", "all:1", "heads:1"), epochs=3)
    kept = []
    for epoch in range(3):
        for _ in trainer.epoch(epoch):
            pass
        kept.append(trainer._frozen)
    assert kept[1] is None
    assert not torch.equal(kept[0]._pooled["sst"], kept[2]._pooled["sst"])


def test_a_layer_that_heads_share_is_trained_with_them():
    model, trainer = make(stages=("heads",), shared_layer=("paraphrase", "sts"))
    before = encoder_of(model)
    weight = model.shared.values()["shared_layer.weight"].clone()
    for _ in trainer.epoch(0):
        pass
    assert moved(model, before) == set()
    assert not torch.equal(model.shared.values()["shared_layer.weight"], weight)


def test_a_run_that_goes_on_within_a_frozen_epoch_sees_the_same_outputs():
    _, trainer = make(stages=("heads",))
    whole = [result.losses["sts"].item() for result in trainer.epoch(0)]
    _, trainer = make(stages=("heads",))
    first = [result.losses["sts"].item() for _, result in zip(range(2), trainer.epoch(0), strict=False)]
    # Entered anew, as after --resume: the weights are those of the second step.
    trainer._stage = "all"
    assert first + [result.losses["sts"].item() for result in trainer.epoch(0, 2)] == whole


@pytest.mark.parametrize("batching", ["joint", "sequential", "annealed"])
def test_the_encoder_runs_over_what_the_stage_reads_and_no_more(batching):
    settings = {"batching": batching, "epochs": 5, "steps_per_epoch": 3, "max_steps": 13}
    _, trainer = make(stages=("all:1", "heads:3", "all:1"), **settings)
    read = {task: set() for task in SPLITS}
    for epoch in (1, 2, 3):
        for micro_batches in trainer.sampler.epoch(epoch):
            for task, examples in micro_batches[0].items():
                read[task] |= set(examples.tolist())
    for epoch in (1, 3):
        found = trainer._examples_of_stage(epoch)
        assert {task: set(examples.tolist()) for task, examples in found.items()} == read
    assert any(len(found[task]) < len(split) for task, split in SPLITS.items())
    last = make(stages=("all:1", "heads:4"), **settings)[1]._examples_of_stage(1)
    final = next(trainer.sampler.epoch(4))[0]
    assert {task: set(examples.tolist()) for task, examples in last.items()} == {
        task: read[task] | set(final[task].tolist()) for task in SPLITS
    }


def test_projected_attention_cannot_be_trained_with_a_frozen_encoder():
    with pytest.raises(InputError, match="--pals"):
        RunConfig(pals=24, stages=("heads",))


def test_it_is_said_that_the_encoder_runs_and_over_how_much():
    told = Told()
    _, trainer = make(told, stages=("heads:1", "all:1"))
    for epoch in range(2):
        next(trainer.epoch(epoch))
    assert told.lines == ["frozen     the encoder runs once over the 118 sequences that the heads will read"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_dev_sets_pass_a_frozen_encoder_once_however_often_they_are_evaluated(data, tmp_path, monkeypatch):
    passed, encode = [], frozen.encode

    def counted(model, split, examples, device, reporter, ranks):
        if len(split) == 10:  # the training sets have 24
            passed.append(len(split))
        return encode(model, split, examples, device, reporter, ranks)

    monkeypatch.setattr(frozen, "encode", counted)
    staged = command(data, tmp_path / "kept", "--stages", "heads:1,all:1", "--evaluate-every", "2")
    assert run_command(run.main, staged) == 0
    assert passed == [10, 10, 10]
    monkeypatch.setattr(Trainer, "kept", property(lambda self: None, lambda self, value: None), raising=False)
    assert run_command(run.main, command(data, tmp_path / "anew", *staged[-4:])) == 0
    assert scores(tmp_path / "kept") == scores(tmp_path / "anew")
    assert [step for step, _ in scores(tmp_path / "kept")] == [2, 4, 6, 8, 10, 12]
    assert passed == [10, 10, 10]


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(("stages", "step"), [("all:1,heads:1", 6), ("heads:1,all:1", 0)])
def test_a_stop_while_the_encoder_reads_does_not_wait_and_loses_nothing(
    data, tmp_path, capsys, monkeypatch, stages, step
):
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert run_command(run.main, command(data, whole, "--stages", stages)) == 0
    encode, read = frozen.encode, []

    def stopped(model, split, examples, device, reporter, ranks):
        class StopThenTell(Reporter):
            def read(self, count):
                read.append(count)
                if len(read) == 2:
                    signal.raise_signal(signal.SIGINT)
                reporter.read(count)

        return encode(model, split, examples, device, StopThenTell(), ranks)

    monkeypatch.setattr(frozen, "encode", stopped)
    capsys.readouterr()
    assert run_command(run.main, command(data, out, "--stages", stages)) == INTERRUPTED
    assert len(read) == 2, "of three sets"
    assert f"stopped    after step {step}; go on with" in capsys.readouterr().out
    monkeypatch.setattr(frozen, "encode", encode)
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert scores(out) == scores(whole)
