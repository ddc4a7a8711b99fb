"""Predictions of whole sets: in the set's order, whatever the batches, and for pairs encoded either way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from concord.bert.batch import TaskTokens, pack
from concord.bert.errors import InputError
from concord.bert.heads import Head
from concord.bert.multitask import MultitaskModel
from concord.train.data.batches import gather
from concord.train.data.tasks import select_tasks
from concord.train.objectives.answers import binary_scores, task_predictions
from concord.train.objectives.losses import link_of
from concord.train.steps.evaluation import answer_tasks, evaluate, predict
from concord.train.steps.frozen import KeptOutputs
from tests.samples import random_split, small_encoder

CPU = torch.device("cpu")
TASKS = select_tasks(["sst", "sts"], None)


def make_model(pair):
    heads = {"sst": Head(32, 5, pair=False, dropout=0.1), "sts": Head(32, 1, pair=pair, dropout=0.1, centre=0.5)}
    for head in heads.values():
        head.initialise(torch.Generator().manual_seed(1))
        head.weight.data *= 20
    return MultitaskModel(small_encoder(), heads)


@pytest.mark.parametrize("per_example", [1, 2])
def test_predictions_are_those_of_each_example_alone_in_the_sets_order(per_example, monkeypatch):
    monkeypatch.setattr("concord.train.steps.evaluation._TOKENS_A_BATCH", {"cpu": 60})
    split, model = random_split(TASKS[1], 17, per_example), make_model(pair=per_example == 2)
    predictions = predict(model, split, CPU)
    for index in range(17):
        first, last = split.cu_seqlens[index * per_example], split.cu_seqlens[(index + 1) * per_example]
        lengths = np.diff(split.cu_seqlens[index * per_example : (index + 1) * per_example + 1])
        tokens = TaskTokens(ids=split.ids[first:last], segments=split.segments[first:last], lengths=lengths)
        nothing = TaskTokens(ids=np.zeros(0), segments=np.zeros(0), lengths=np.zeros(0, dtype=np.int64))
        alone = task_predictions(TASKS[1], model(pack([nothing, tokens]))["sts"].logits.detach())
        assert predictions[index] == pytest.approx(alone[0], abs=1e-4)
    assert predictions.std() > 0.01


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_chosen_threshold_is_the_best_one_and_is_kept_by_the_model(outputs, tmp_path):
    task = replace(*select_tasks(["cfimdb"], None), kind="binary", classes=1)
    split = random_split(task, 60, 1)
    split = replace(split, labels=split.labels % 2)
    link = link_of(task, "cross-entropy" if outputs == 2 else "binary-cross-entropy")

    def make():
        head = Head(32, outputs, pair=False, dropout=0.1, link=link, has_threshold=True)
        head.initialise(torch.Generator().manual_seed(1))
        head.weight.data *= 20
        head.bias.data[-1] += 3.0
        return MultitaskModel(small_encoder(), {"cfimdb": head})

    model = make()
    plain, _ = evaluate(model, {"cfimdb": split}, CPU)
    assert model.thresholds() == {"cfimdb": 0.5}
    chosen, answers = evaluate(model, {"cfimdb": split}, CPU, choose_thresholds=True)
    assert chosen["cfimdb"]["accuracy"] > plain["cfimdb"]["accuracy"]
    assert 0.5 < model.thresholds()["cfimdb"] < 1
    assert (predict(model, split, CPU) == answers["cfimdb"].predictions).all()
    model.save(tmp_path)
    other = make()
    other.load(tmp_path)
    assert (predict(other, split, CPU) == answers["cfimdb"].predictions).all()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("has_threshold", [False, True])
def test_the_area_under_the_curve_is_of_scores_whatever_the_threshold(outputs, has_threshold):
    library = pytest.importorskip("sklearn.metrics")
    task = replace(*select_tasks(["cfimdb"], None), kind="binary", classes=1, metric="roc-auc")
    split = random_split(task, 60, 1)
    split = replace(split, labels=split.labels % 2)
    link = link_of(task, "cross-entropy" if outputs == 2 else "binary-cross-entropy")
    head = Head(32, outputs, pair=False, dropout=0.1, link=link, has_threshold=has_threshold)
    head.initialise(torch.Generator().manual_seed(1))
    head.weight.data *= 20
    model = MultitaskModel(small_encoder(), {"cfimdb": head})
    metrics, answers = evaluate(model, {"cfimdb": split}, CPU, choose_thresholds=True)
    scores = answers["cfimdb"].scores
    logits = model(gather({"cfimdb": split}, {"cfimdb": np.arange(60)}, CPU).packed)["cfimdb"].logits.detach()
    assert scores == pytest.approx(binary_scores(logits, link), rel=1e-4, abs=1e-6)
    assert len(set(scores.tolist())) > 30
    assert metrics["cfimdb"]["roc-auc"] == pytest.approx(library.roc_auc_score(split.labels, scores), rel=1e-12)
    assert metrics["cfimdb"]["accuracy"] == np.mean(answers["cfimdb"].predictions == split.labels)
    head.weight.data[0, 3] = torch.nan
    broken, _ = evaluate(model, {"cfimdb": split}, CPU)
    assert np.isnan([broken["cfimdb"][name] for name in ("roc-auc", "accuracy", "f1")]).all()


def test_the_score_of_a_binary_task_is_the_probability_or_the_share_that_speaks_for_1():
    logits = torch.tensor([[-1.0], [0.25], [2.0]])
    assert binary_scores(logits, "sigmoid") == pytest.approx((1 / (1 + torch.exp(-logits))).squeeze(1).numpy())
    assert binary_scores(logits, "identity").tolist() == [-1.0, 0.25, 2.0]
    two = torch.tensor([[1.0, 3.0], [0.5, 0.5]])
    assert binary_scores(two, "softmax") == pytest.approx([np.exp(3) / (np.exp(1) + np.exp(3)), 0.5])


def test_a_micro_batch_holds_the_tokens_and_labels_of_its_examples():
    splits = {"sst": random_split(TASKS[0], 6, 1), "sts": random_split(TASKS[1], 9, 2, seed=1)}
    batch = gather(splits, {"sst": np.array([4, 0]), "sts": np.array([8])}, CPU)
    assert batch.labels["sst"].tolist() == [4, 0]
    assert batch.labels["sts"].tolist() == [8]
    assert batch.packed.sequence_rows.bounds == (0, 2, 4)
    pieces = [splits["sst"].ids[slice(*splits["sst"].cu_seqlens[i : i + 2])] for i in (4, 0)]
    pieces += [splits["sts"].ids[slice(*splits["sts"].cu_seqlens[i : i + 2])] for i in (16, 17)]
    assert batch.packed.ids.tolist() == np.concatenate(pieces).tolist()
    assert batch.packed.positions.tolist() == [position for piece in pieces for position in range(len(piece))]


def test_a_task_without_examples_has_no_labels_and_no_logits():
    splits = {"sst": random_split(TASKS[0], 6, 1), "sts": random_split(TASKS[1], 9, 1)}
    batch = gather(splits, {"sst": np.zeros(0, dtype=np.int64), "sts": np.array([1, 2])}, CPU)
    assert batch.labels.keys() == {"sts"}
    assert make_model(pair=False)(batch.packed).keys() == {"sts"}


def test_answers_are_read_as_the_heads_loss_trained_them():
    split, model = random_split(TASKS[1], 9, 1), make_model(pair=False)
    model.heads["sts"].weight.data /= 10
    shares = predict(model, split, CPU) / 5
    assert 0 < shares.min() < shares.max() < 1
    model.heads["sts"].link = "sigmoid"
    assert predict(model, split, CPU) / 5 == pytest.approx(1 / (1 + np.exp(-shares)), abs=1e-5)


@pytest.fixture
def encoder_runs(monkeypatch):
    """A list that grows by one whenever an encoder's outputs are pooled."""
    runs, pool = [], MultitaskModel.pool

    def counted(self, *arguments, **options):
        runs.append(1)
        return pool(self, *arguments, **options)

    monkeypatch.setattr(MultitaskModel, "pool", counted)
    return runs


def test_kept_outputs_give_the_same_answers_without_the_encoder_until_its_weights_change(encoder_runs, monkeypatch):
    monkeypatch.setattr("concord.train.steps.evaluation._TOKENS_A_BATCH", {"cpu": 60})
    splits = {"sst": random_split(TASKS[0], 11, 1, seed=1), "sts": random_split(TASKS[1], 17, 2, seed=2)}
    splits["sst"].labels[:] %= 5
    model, kept = make_model(pair=True), KeptOutputs()

    def answers(kept=None):
        metrics, found = evaluate(model, splits, CPU, gather_kept=kept.of(model, splits, CPU).gather if kept else None)
        return metrics, {name: own.predictions.tolist() for name, own in found.items()}

    expected, once = answers(), len(encoder_runs)
    assert once > 2
    assert answers(kept) == expected
    assert len(encoder_runs) == 2 * once
    model.heads["sts"].weight.data *= 0.5
    assert answers(kept) == answers() != expected
    assert len(encoder_runs) == 3 * once
    model.encoder_values()["layers.1.output.weight"][0] += 1.0
    model.shared.refresh_compute()
    assert answers(kept) == answers()
    assert len(encoder_runs) == 5 * once


def test_a_task_whose_scores_are_not_finite_has_no_metrics():
    splits = {"sst": random_split(TASKS[0], 11, 1, seed=1), "sts": random_split(TASKS[1], 17, 2, seed=2)}
    splits["sst"].labels[:] %= 5
    model = make_model(pair=True)
    model.heads["sst"].weight.data[2, 3] = torch.nan
    metrics, _ = evaluate(model, splits, CPU)
    assert np.isnan(metrics["sst"]["accuracy"])
    assert np.isfinite(metrics["sts"]["pearson"])


def test_an_answer_that_is_not_finite_is_refused():
    model = make_model(pair=False)
    model.heads["sst"].weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="task sst: an answer is not finite"):
        answer_tasks(model, TASKS[:1], random_split(TASKS[0], 3, 1), CPU)
