"""Thresholds that a set chooses, by the metric that its task is judged by."""

import numpy as np
import pytest

from concord.train.objectives.metrics import accuracy
from concord.train.objectives.thresholds import best_threshold
from concord.train.settings.tables import METRICS


def labels(*numbers):
    return np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_is_more_accurate_than_the_best_one(seed):
    random = np.random.default_rng(seed)
    scores = (random.integers(0, 40, 30) / 32).astype(np.float32)  # with equal ones, and some above 1
    gold = (random.random(30) < scores / 2 + 0.2).astype(np.float64)
    found = best_threshold(scores, gold)
    others = [accuracy(scores > other, gold) for other in np.arange(-1, 2, 1 / 64)]
    assert accuracy(scores > found, gold) == max(others)
    assert (found == 0.5) == (accuracy(scores > 0.5, gold) == max(others))


def test_of_several_thresholds_as_good_it_is_the_nearest_to_a_half():
    scores = np.array([0.1, 0.2, 0.6, 0.7, 0.8, 0.9], dtype=np.float32)
    # Right are the cuts between 0.6 and 0.7, and between 0.8 and 0.9: one mistake each.
    assert best_threshold(scores, labels(0, 0, 0, 1, 0, 1)) == pytest.approx(0.65)
    assert best_threshold(scores, labels(0, 0, 1, 1, 1, 1)) == 0.5


def test_a_threshold_can_answer_all_alike():
    scores = np.array([0.25, 0.75, 0.5], dtype=np.float32)
    assert (scores > best_threshold(scores, labels(1, 1, 1))).all()
    assert not (scores > best_threshold(scores, labels(0, 0, 0))).any()


def test_a_threshold_between_neighbours_of_fp32_tells_them_apart():
    low = np.float32(0.3)
    scores = np.array([np.nextafter(low, np.float32(1)), low])
    assert (scores > np.float32(best_threshold(scores, labels(1, 0)))).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("entry", [entry for entry in METRICS if "binary" in entry.kinds], ids=lambda entry: entry.name)
def test_no_threshold_is_better_than_the_best_one_by_the_tasks_metric(entry, seed):
    if entry.library:
        pytest.importorskip("sklearn")
    judge = accuracy if entry.of_scores else METRICS.resolve(entry.name)
    random = np.random.default_rng(seed)
    scores = (random.integers(0, 40, 30) / 32).astype(np.float32)
    gold = (random.random(30) < scores / 4).astype(np.float64)
    others = [judge((scores > other).astype(np.float64), gold) for other in np.arange(-1, 2, 1 / 64)]
    found = best_threshold(scores, gold, entry.name)
    assert judge((scores > found).astype(np.float64), gold) == pytest.approx(max(others), rel=1e-12)


def test_where_ones_are_rare_f1_finds_some_where_accuracy_finds_none():
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.35, 0.3], dtype=np.float32)
    gold = labels(0, 0, 0, 0, 1, 0)
    assert best_threshold(scores, gold) == 0.5
    assert best_threshold(scores, gold, "f1") == pytest.approx(0.325)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "macro-f1", "mcc"])
@pytest.mark.parametrize("one", [0, 1])
def test_a_set_with_one_label_has_a_threshold_by_every_metric(metric, one):
    scores = np.array([0.25, 0.75, 0.6], dtype=np.float32)
    found = best_threshold(scores, labels(one, one, one), metric)
    # By F1 of the ones, and by Matthews' correlation, zeros alone are the same whatever is answered.
    expected = 0.5 if (metric, one) in {("f1", 0), ("mcc", 0), ("mcc", 1)} else None
    assert found == expected or ((scores > found) == one).all()
