"""Class weights: what they are, what they do to each loss, and where they are given."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from concord.bert.errors import InputError
from concord.train.data.tasks import read_tasks, select_tasks, write_tasks
from concord.train.objectives.class_weights import class_weights, describe_class_weights
from concord.train.objectives.losses import task_loss
from concord.train.objectives.objectives import build_objectives
from concord.train.runs.begin import choose_metrics
from concord.train.settings.config import RunConfig
from concord.train.settings.tables import LOSSES
from tests.settings import fine_tuning
from tests.train.test_tasks import ENTAILMENT, define

SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)


def weighed(task, weights):
    return replace(task, class_weights=weights)


def test_balanced_weights_are_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat([0, 1, 2, 3, 4], [50, 7, 1, 20, 3]).astype(np.float32)
    found = class_weights(weighed(SST, "balanced"), labels)
    expected = utils.compute_class_weight("balanced", classes=np.arange(5), y=labels)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert found[labels.astype(int)].mean().item() == pytest.approx(1.0)


def test_a_class_without_examples_takes_nothing_from_the_others():
    found = class_weights(weighed(SST, "balanced"), np.array([0, 0, 0, 4], np.float32))
    assert found.tolist() == pytest.approx([2 / 3, 0, 0, 0, 2])


def test_weights_by_label_are_1_where_none_is_given():
    task = weighed(SST, {"4": 2.5, "0": 0.0})
    weights = class_weights(task, np.zeros(1, np.float32))
    assert weights.tolist() == [0, 1, 1, 1, 2.5]
    assert describe_class_weights(task, weights) == "sst 0 0, 1 1, 2 1, 3 1, 4 2.5"
    assert class_weights(SST, np.zeros(1, np.float32)) is None


@pytest.mark.parametrize("loss", LOSSES.names)
def test_a_weight_of_a_class_is_as_good_as_so_many_copies_of_its_examples(loss):
    generator = torch.Generator().manual_seed(1)
    outputs = 2 if loss == "cross-entropy" else 1
    logits, labels = torch.randn(9, outputs, generator=generator), torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 1, 0])
    weights = torch.tensor([2.0, 3.0])
    copies = torch.tensor([2, 3])[labels.long()]
    given = logits.clone().requires_grad_()
    repeated = logits.clone().requires_grad_()
    found = task_loss(PARAPHRASE, given, labels, 9, loss, weights)
    again = repeated.repeat_interleave(copies, 0)
    expected = task_loss(PARAPHRASE, again, labels.repeat_interleave(copies), 9, loss)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    expected.backward()
    assert torch.allclose(given.grad, repeated.grad, rtol=1e-5, atol=1e-7)


def test_weighed_cross_entropy_is_torchs_in_fp64():
    logits, labels = torch.randn(20, 5, generator=torch.Generator().manual_seed(2)), torch.arange(20.0) % 5
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])
    expected = functional.cross_entropy(logits.double(), labels.long(), weights.double(), reduction="sum") / 40
    assert task_loss(SST, logits, labels, 40, "auto", weights).item() == pytest.approx(expected.item(), rel=1e-6)


def objectives(tasks, **settings):
    config = fine_tuning(tasks=tuple(task.name for task in tasks), **settings)
    chosen = choose_metrics(tasks, config.objectives)
    return build_objectives(config.objectives, config.data.pair_encoding, chosen, {task.name: 4 for task in tasks})


def test_flags_come_before_what_a_task_says():
    def chosen(task, **settings):
        (found,) = choose_metrics([task], fine_tuning(tasks=("sst",), **settings).objectives)
        return found.metric, found.class_weights

    own = replace(SST, metric="mcc", class_weights="balanced")
    assert chosen(own) == ("mcc", "balanced")
    assert chosen(own, metric=("macro-f1",), class_weights=("sst=none",)) == ("macro-f1", None)
    assert chosen(SST, class_weights=("sst=0:1.5+4:2",)) == (None, {"0": 1.5, "4": 2.0})
    assert chosen(SST) == (None, None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"class_weights": ("balancd",)},
            "--class-weights: task sst: class_weights is 'balancd', expected balanced, or",
        ),
        (
            {"class_weights": ("balanced",)},
            "--class-weights: task sts: class_weights are given, expected none for kind",
        ),
        ({"class_weights": ("sst=5:1",)}, "class_weights has the label '5', expected some of 0, 1, 2, 3, 4"),
        ({"class_weights": ("sst=5:1+5:2",)}, "--class-weights 5:1.5:2: expected LABEL:WEIGHT, each label once"),
        ({"class_weights": ("sst=0:1+2",)}, "--class-weights 0:1.2: expected LABEL:WEIGHT"),
        ({"class_weights": ("sst=0:-1",)}, "--class-weights -1: expected a number of at least 0"),
        ({"class_weights": ("sst=0:1e30",)}, "class_weights gives '0' 1e.30, expected a number from 0 to 1e.18"),
        ({"class_weights": ("sst=0:0+1:0+2:0+3:0+4:0",)}, "class_weights is 0 for every label"),
        ({"class_weights": ("ssst=balanced",)}, "--class-weights ssst=balanced: expected one of .*did you mean 'sst'"),
        ({"metric": ("macro-f1",)}, "--metric sts=macro-f1: task sts: metric is 'macro-f1', expected one of pearson"),
        ({"metric": ("sst=macrof1",)}, "--metric sst=macrof1: expected one of .*did you mean 'macro-f1'"),
        (
            {"best_metric": "accuracy"},
            "--best-metric accuracy: expected mean, or a metric of one of the tasks, such as",
        ),
        ({"best_metric": "sst."}, "--best-metric sst.: expected mean"),
        ({"early_stopping": -1}, "--early-stopping -1: expected at least 0"),
    ],
)
def test_what_fits_no_task_is_refused_in_one_line(settings, expected):
    with pytest.raises(InputError, match=f"^{expected if expected.startswith('--') else '.*' + expected}") as caught:
        objectives([SST, STS], **settings)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_class_weights_need_a_loss_of_the_logits_that_is_the_projects(write):
    write("own_losses", "def plain(logits, labels, task):\n    return logits.square().mean()\n")
    with pytest.raises(InputError, match="sst has class weights, but a loss of your own weighs the classes itself"):
        objectives([SST], losses=("sst=own_losses:plain",), class_weights=("balanced",))
    with pytest.raises(InputError, match="paraphrase has class weights, but there is no loss of the logits to weigh"):
        objectives(
            [PARAPHRASE],
            heads=("cosine",),
            losses=("mnrl-label",),
            pair_encoding=("separate",),
            class_weights=("balanced",),
        )


def test_the_objective_weighs_by_what_it_is_given():
    config, weights = fine_tuning(tasks=("sst",)), torch.tensor([1.0, 1, 1, 1, 9])
    (found,) = build_objectives(
        config.objectives, config.data.pair_encoding, [SST], {"sst": 4}, {"sst": weights}
    ).values()
    assert found.class_weights is weights


def test_a_table_of_tasks_toml_gives_metric_and_weights(tmp_path):
    text = ENTAILMENT + 'metric = "macro-f1"\nclass_weights = { 0 = 1, 2 = 2.5 }\n'
    (task,) = select_tasks(["entailment"], define(tmp_path, text))
    assert (task.metric, task.class_weights) == ("macro-f1", {"0": 1.0, "2": 2.5})
    write_tasks(tmp_path / "tasks.json", [task, SST])
    assert read_tasks(tmp_path / "tasks.json") == [task, SST]
    assert "class_weights" not in json.loads((tmp_path / "tasks.json").read_text())[1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('metric = "f1"', "metric is 'f1', expected one of accuracy, macro-f1, mcc for kind classification"),
        ('metric = "mod:function"', "metric is 'mod:function', expected one of"),
        ("metric = 3", "metric is 3, expected a text"),
        ("class_weights = [1, 2, 3]", r"class_weights is \[1, 2, 3\], expected balanced, or a number for each label"),
        ("class_weights = {}", "class_weights is {}, expected balanced, or a number for each label"),
        ('class_weights = { 0 = "1" }', "class_weights is .*, expected balanced, or a number for each label"),
        ("class_weights = { 0 = nan }", "class_weights gives '0' nan, expected a number from 0 to"),
        ("class_weights = { 3 = 1 }", "class_weights has the label '3', expected some of 0, 1, 2"),
    ],
)
def test_a_wrong_metric_or_weight_of_a_table_is_named(tmp_path, line, expected):
    with pytest.raises(InputError, match=rf"tasks\.toml: task entailment: {expected}"):
        select_tasks(["entailment"], define(tmp_path, ENTAILMENT + line))


def test_a_wrong_number_of_classes_is_named_before_they_are_counted(tmp_path):
    text = ENTAILMENT.replace("classes = 3", f"classes = {10**12}") + 'class_weights = "balanced"\n'
    with pytest.raises(InputError, match="classes is 1000000000000, expected from 2 to"):
        select_tasks(["entailment"], define(tmp_path, text))


def test_the_defaults_leave_everything_to_the_task():
    config = RunConfig()
    assert (config.metric, config.class_weights, config.best_metric, config.early_stopping) == (
        ("auto",),
        ("auto",),
        "mean",
        0,
    )
