"""Metrics, by hand and against SciPy."""

import numpy as np
import pytest

from concord.train.data.tasks import select_tasks
from concord.train.objectives.metrics import (
    accuracy,
    best_threshold,
    f1,
    main_metric,
    overall,
    pearson,
    spearman,
    task_metrics,
)

SST, PARAPHRASE, STS, CFIMDB = select_tasks(["sst", "paraphrase", "sts", "cfimdb"], None)


def values(*numbers):
    return np.array(numbers, dtype=np.float64)


def labels(*numbers):
    return np.array(numbers, dtype=np.float32)


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(values(0, 4, 2, 2), labels(0, 4, 1, 2)) == 0.75


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


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    # Two hits, one false alarm, two misses: precision 2/3, recall 1/2.
    assert f1(values(1, 1, 1, 0, 0, 0), labels(1, 1, 0, 1, 1, 0)) == pytest.approx(4 / 7)


def test_f1_is_zero_where_no_example_is_or_is_said_to_be_positive():
    assert f1(values(0, 0), labels(0, 0)) == 0.0


def test_pearson_of_a_worked_example():
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
    assert pearson(values(1, 2, 3), labels(0, 2, 1)) == pytest.approx(0.5)


def test_spearman_gives_ties_their_average_rank():
    # Ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5).
    assert spearman(values(1, 2, 2, 9), labels(1, 2, 3, 4)) == pytest.approx(4.5 / np.sqrt(22.5))


@pytest.mark.parametrize("metric", [pearson, spearman])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-30, 3.3, 1e6 / 7])
def test_constant_predictions_have_no_correlation(metric, constant):
    scores = np.linspace(0, 5, 863, dtype=np.float32)
    assert metric(np.full(863, constant), scores) == 0.0
    assert metric(scores.astype(np.float64), np.full(863, constant, dtype=np.float32)) == 0.0


def test_one_example_has_no_correlation():
    assert task_metrics(STS, values(2.5), labels(3)) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_correlations_agree_with_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    scores = np.round(random.uniform(0, 5, 500), 1).astype(np.float32)
    found = np.round(scores + random.normal(0, 1, 500), 1).clip(0, 5)
    assert pearson(found, scores) == pytest.approx(stats.pearsonr(found, scores.astype(np.float64))[0], rel=1e-12)
    assert spearman(found, scores) == pytest.approx(stats.spearmanr(found, scores)[0], rel=1e-12)


def test_a_large_offset_costs_no_precision():
    scores = np.linspace(0, 1, 101).astype(np.float32)
    assert pearson(scores.astype(np.float64) + 1e6, scores) == pytest.approx(1.0, abs=1e-9)


def test_each_kind_of_task_has_its_metrics():
    assert task_metrics(SST, values(0, 1), labels(0, 2)) == {"accuracy": 0.5}
    assert task_metrics(PARAPHRASE, values(1, 1), labels(1, 0)) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    assert task_metrics(STS, values(1, 2), labels(3, 4)) == {
        "pearson": pytest.approx(1.0),
        "spearman": pytest.approx(1.0),
    }


def test_the_main_metric_is_one_of_the_tasks_metrics():
    assert [main_metric(task) for task in (SST, PARAPHRASE, STS, CFIMDB)] == [
        "accuracy",
        "accuracy",
        "pearson",
        "accuracy",
    ]


METRICS = {
    "sst": {"accuracy": 0.5},
    "paraphrase": {"accuracy": 0.8, "f1": 0.1},
    "sts": {"pearson": 0.6, "spearman": 0.2},
    "cfimdb": {"accuracy": 0.9},
}


def test_overall_is_the_courses_formula_beside_the_plain_mean():
    course, mean = overall(METRICS, [SST, PARAPHRASE, STS])
    assert course == pytest.approx((0.5 + 0.8 + 0.8) / 3)
    assert mean == pytest.approx((0.5 + 0.8 + 0.6) / 3)


def test_a_fourth_task_changes_the_mean_alone():
    course, mean = overall(METRICS, [SST, PARAPHRASE, STS, CFIMDB])
    assert course == pytest.approx(0.7)
    assert mean == pytest.approx(0.7)
    assert overall(METRICS | {"cfimdb": {"accuracy": 0.1}}, [SST, PARAPHRASE, STS, CFIMDB]) == (
        pytest.approx(0.7),
        pytest.approx(0.5),
    )


def test_without_the_three_tasks_there_is_no_overall_score():
    assert overall(METRICS, [SST, STS]) == (None, pytest.approx(0.55))
