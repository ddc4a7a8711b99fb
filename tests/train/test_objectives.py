"""Objectives: losses and weights as configured, what does not fit refused in a line, and steps that ask for nothing."""

import numpy as np
import pytest
import torch

from concord.bert.errors import InputError
from concord.bert.multitask import TaskOutput
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import DropoutStream
from concord.train.data.batches import gather
from concord.train.data.tasks import Task, select_tasks
from concord.train.objectives.losses import task_loss
from concord.train.objectives.objectives import build_objectives, head_specs
from concord.train.objectives.pairs import Pairs, cosine_embedding, multiple_negatives_by_label
from concord.train.settings.tables import HEADS, PAIR_LOSSES
from concord.train.steps.build import build_model, build_optimizer
from concord.train.steps.precision import choose_precision
from concord.train.steps.step import TrainingStep
from tests.samples import random_split, small_encoder
from tests.settings import fine_tuning
from tests.train.test_graphs import AsksTheHost

TASKS = select_tasks(["sst", "paraphrase", "sts"], None)
SST, PARAPHRASE, STS = TASKS
SIZES = {"sst": 100, "paraphrase": 400, "sts": 50}
EPOCH = torch.tensor(1.0)
LABELS = torch.tensor([4.8, 1.0, 4.45])


def objectives_for(config, tasks, sizes):
    return build_objectives(config.objectives, config.data.pair_encoding, tasks, sizes)


def specs_for(config, tasks):
    return head_specs(config.objectives, config.data.pair_encoding, tasks, 32)


def objectives_of(**settings):
    return objectives_for(fine_tuning(**settings), TASKS, SIZES)


def output_of(count, outputs=1, pair=True):
    return TaskOutput(torch.randn(count, outputs), torch.randn(count * (2 if pair else 1), 6))


def loss_of(objective, output, labels, examples, log_variance=None):
    dropouts = DropoutStream(torch.tensor(1))
    return objective.loss(output, labels, examples, epoch=EPOCH, dropouts=dropouts, log_variance=log_variance)


def test_added_losses_add_up():
    objective = objectives_of(
        losses=("sts=huber+mnrl-label+cosine-embedding",), pair_encoding=("separate",), margin=0.3
    )["sts"]
    output = output_of(3)
    pairs = Pairs(
        first=output.embeddings[0::2],
        second=output.embeddings[1::2],
        shares=LABELS / 5,
        margin=0.3,
        epoch=EPOCH,
        dropouts=DropoutStream(torch.tensor(1)),
    )
    expected = (
        task_loss(STS, output.logits, LABELS, 3, "huber") + multiple_negatives_by_label(pairs) + cosine_embedding(pairs)
    )
    minimised, logged = loss_of(objective, output, LABELS, 3)
    assert minimised.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(minimised, logged)


def test_parts_of_a_step_count_by_their_share_of_its_examples():
    objective = objectives_of(losses=("sts=mse+cosine-embedding",), pair_encoding=("separate",))["sts"]
    output, labels = output_of(7), torch.rand(7) * 5
    parts = [
        loss_of(objective, TaskOutput(output.logits[a:b], output.embeddings[2 * a : 2 * b]), labels[a:b], 7)[0]
        for a, b in ((0, 3), (3, 7))
    ]
    assert sum(parts).item() == pytest.approx(loss_of(objective, output, labels, 7)[0].item(), rel=1e-6)


def test_numbers_weigh_what_is_minimised_and_not_what_is_logged():
    output = output_of(3)
    plain = objectives_of()["sts"]
    weighted = objectives_of(loss_weights=("0.5", "sts=0.25"))["sts"]
    minimised, logged = loss_of(weighted, output, LABELS, 3)
    assert torch.equal(logged, loss_of(plain, output, LABELS, 3)[1])
    assert minimised.item() == pytest.approx(0.25 * logged.item())
    assert objectives_of(loss_weights=("0.5", "sts=0.25"))["sst"].weight == 0.5


def test_inverse_shares_have_a_mean_of_one_and_undo_the_sets_sizes():
    weights = {name: objective.weight for name, objective in objectives_of(loss_weights=("inverse-share",)).items()}
    assert sum(weights.values()) == pytest.approx(3)
    assert len({round(weights[name] * size, 6) for name, size in SIZES.items()}) == 1


@pytest.mark.parametrize(
    ("task", "loss", "expected"),
    [
        (STS, "mse", lambda value, s: value / (2 * np.exp(s)) + s / 2),
        (PARAPHRASE, "huber", lambda value, s: value / (2 * np.exp(s)) + s / 2),
        (PARAPHRASE, "binary-cross-entropy", lambda value, s: value / np.exp(s) + s / 2),
        (SST, "cross-entropy", lambda value, s: value / np.exp(s) + s / 2),
    ],
)
def test_an_uncertainty_weighs_a_loss_and_counts_once_a_step(task, loss, expected):
    objective = objectives_of(losses=(f"{task.name}={loss}",), loss_weights=("uncertainty",))[task.name]
    log_variance = torch.tensor([0.7], requires_grad=True)
    output, labels = output_of(5, task.classes), torch.tensor([0.0, 1, 1, 0, 1])
    total = 0
    for part in (slice(0, 2), slice(2, 5)):
        minimised, logged = loss_of(
            objective, TaskOutput(output.logits[part], output.embeddings), labels[part], 5, log_variance
        )
        assert torch.equal(logged, task_loss(task, output.logits[part], labels[part], 5, loss))
        total = total + minimised
    value = task_loss(task, output.logits, labels, 5, loss).item()
    assert total.item() == pytest.approx(expected(value, 0.7), rel=1e-5)
    total.backward()
    slope = (expected(value, 0.7001) - expected(value, 0.6999)) / 2e-4
    assert log_variance.grad.item() == pytest.approx(slope, rel=1e-3)


def test_heads_are_those_that_the_losses_ask_for():
    config = fine_tuning(
        heads=("hidden", "sts=cosine"),
        losses=("paraphrase=cross-entropy", "sts=cosine-embedding"),
        pair_encoding=("sts=separate",),
        loss_weights=("1", "sst=uncertainty"),
    )
    specs = specs_for(config, TASKS)
    assert [spec.build for spec in specs.values()] == [HEADS.resolve(name) for name in ("hidden", "hidden", "cosine")]
    assert [spec.outputs for spec in specs.values()] == [5, 2, 1]
    assert [spec.pair for spec in specs.values()] == [False, False, True]
    assert [spec.link for spec in specs.values()] == ["softmax", "softmax", "identity"]
    assert [spec.learns_variance for spec in specs.values()] == [True, False, False]
    specs = specs_for(fine_tuning(losses=("sts=sigmoid-mse", "paraphrase=mse")), TASKS)
    assert [spec.centre for spec in specs.values()] == [0, 0.5, 0]


def test_with_a_cosine_the_loss_auto_is_the_squared_error():
    config = fine_tuning(heads=("linear", "paraphrase=cosine"), pair_encoding=("separate",))
    assert objectives_for(config, TASKS, SIZES)["paraphrase"].main == "mse"


ENTAILMENT = Task(
    name="nli",
    kind="classification",
    pair=True,
    classes=3,
    low=0,
    high=2,
    stem="nli",
    text_columns=("first", "second"),
    label_column="label",
    prediction_column="answer",
)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (SST, {"heads": ("cosine",)}, "--heads sst=cosine: sst is no task of pairs"),
        (
            STS,
            {"heads": ("cosine",)},
            "--heads sts=cosine: expected pairs as two sequences, --pair-encoding sts=separate",
        ),
        (STS, {"losses": ("mse+triplet",)}, "--losses sts=mse.triplet: expected pairs as two sequences"),
        (SST, {"losses": ("auto+mnrl-label",)}, "--losses sst=auto.mnrl-label: sst is no task of pairs"),
        (ENTAILMENT, {"heads": ("mapped-cosine",), "pair_encoding": ("separate",)}, "nli has classes"),
        (
            STS,
            {"losses": ("cross-entropy",)},
            "--losses sts=cross-entropy: with a linear head, sts .regression. takes mse",
        ),
        (SST, {"losses": ("huber",)}, "--losses sst=huber: .* takes cross-entropy$"),
        (STS, {"losses": ("mse+huber",)}, "expected one loss of the logits at most"),
        (STS, {"losses": ("mse+triplet+triplet",), "pair_encoding": ("separate",)}, "each other one once"),
        (
            STS,
            {"losses": ("triplet",), "pair_encoding": ("separate",)},
            "nothing trains the linear head; add one of mse",
        ),
        (
            STS,
            {"heads": ("cosine",), "losses": ("sigmoid-mse",), "pair_encoding": ("separate",)},
            "with a cosine head, sts .regression. takes mse, huber",
        ),
        (STS, {"loss_weights": ("equal",)}, "--loss-weights equal: expected a number"),
        (STS, {"shared_layer": ("stss",)}, "--shared-layer stss: .*sts"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(task, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        config = fine_tuning(tasks=(task.name,), **settings)
        specs_for(config, [task])
        objectives_for(config, [task], {task.name: 10})
    assert "\n" not in str(caught.value)


# These ask the host where they are computed by torch; the kernels do not.
REFERENCES = (
    "kernels/layout/sequences.py",
    "kernels/embedding.py",
    "kernels/surgery/adamw.py",
    "kernels/surgery/gram.py",
    "kernels/surgery/plan.py",
)

EVERYTHING = {
    "heads": ("sst=hidden", "paraphrase=mapped-cosine", "sts=cosine"),
    "shared_layer": ("paraphrase", "sts"),
    "losses": (
        "sst=cross-entropy",
        "paraphrase=huber+triplet",
        "sts=mse+" + "+".join(PAIR_LOSSES.names),
    ),
    "loss_weights": ("uncertainty", "paraphrase=inverse-share"),
    "pair_encoding": ("separate",),
    "smart": ("1", "paraphrase=0.5"),
    "surgery": "pcgrad",
    "learning_rate": 1e-3,
}


def steps_of(settings):
    """A model and its optimizer, and a function that does one step on two micro-batches."""
    config = fine_tuning(batch_size=4, device="cpu", **settings)
    precision = choose_precision("cpu", "off")
    model = build_model(config, TASKS, small_encoder(), precision)
    optimizer = build_optimizer(config, model, precision)
    splits = {
        task.name: random_split(task, 8, 2 if task.pair else 1, seed=index, longest=6)
        for index, task in enumerate(TASKS)
    }
    for split in splits.values():
        split.labels[:] = np.linspace(0, split.task.high, 8).round()
    objectives = objectives_for(config, TASKS, {name: len(split) for name, split in splits.items()})
    step = TrainingStep(model, optimizer, objectives)
    batches = [
        gather(splits, dict.fromkeys(splits, np.arange(start, start + 4)), accumulate=start > 0, smoothed=splits)
        for start in (0, 4)
    ]
    inputs = {"seed": torch.tensor(5), "rate_factor": torch.ones(()), "epoch": torch.tensor(0.0)}
    return model, lambda: step(batches, dict.fromkeys(splits, 8), **inputs)


def test_with_everything_switched_on_a_step_asks_the_host_for_nothing_and_trains_all():
    with using_kernels("torch"):
        model, step = steps_of(EVERYTHING)
        before = {name: value.clone() for name, value in (model.shared.values() | model.private.values()).items()}
        with AsksTheHost() as mode:
            output = step()
    assert [found for found in mode.found if not any(name in frame for frame in found[1] for name in REFERENCES)] == []
    assert all(loss.isfinite() for loss in output.losses.values())
    assert output.plan.apply
    after = model.shared.values() | model.private.values()
    unmoved = [name for name, value in before.items() if torch.equal(after[name], value)]
    assert unmoved == []
    assert {name for name in after if name.endswith("log_variance")} == {"sst.log_variance", "sts.log_variance"}


def test_a_step_trains_a_lone_task_whose_head_has_no_parameters():
    sts = [STS]
    config = fine_tuning(
        tasks=("sts",), heads=("cosine",), pair_encoding=("separate",), learning_rate=1e-3, device="cpu"
    )
    precision = choose_precision("cpu", "off")
    model = build_model(config, sts, small_encoder(), precision)
    optimizer = build_optimizer(config, model, precision)
    split = random_split(STS, 5, 2)
    step = TrainingStep(model, optimizer, objectives_for(config, sts, {"sts": 5}))
    start = model.shared.master.clone()
    inputs = {"seed": torch.tensor(5), "rate_factor": torch.ones(()), "epoch": torch.tensor(0.0)}
    losses = [
        step([gather({"sts": split}, {"sts": np.arange(5)})], {"sts": 5}, **inputs).losses["sts"].item()
        for _ in range(4)
    ]
    assert not torch.equal(model.shared.master, start)
    assert losses[-1] < losses[0]
