"""Metrics, by hand and against SciPy and scikit-learn; which of them a task has."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train.data.tasks import select_tasks
from concord.train.objectives.metrics import (
    accuracy,
    check_best_metric,
    check_metrics,
    f1,
    macro_f1,
    main_metric,
    mcc,
    metric_names,
    overall,
    pearson,
    roc_auc,
    spearman,
    task_metrics,
)
from concord.train.objectives.undefined import weak_answers, weak_labels
from concord.train.outputs.strict_json import json_text
from concord.train.outputs.summary import dev_sum, score_line
from concord.train.settings.tables import METRICS as TABLE

SST, PARAPHRASE, STS, CFIMDB = select_tasks(["sst", "paraphrase", "sts", "cfimdb"], None)


def values(*numbers):
    return np.array(numbers, dtype=np.float64)


def labels(*numbers):
    return np.array(numbers, dtype=np.float32)


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(values(0, 4, 2, 2), labels(0, 4, 1, 2)) == 0.75


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


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_of_classes_agree_with_scikit_learns(library, classes):
    random = np.random.default_rng(classes)
    gold = random.integers(0, classes, 400).astype(np.float32)
    found = np.where(random.random(400) < 0.6, gold, random.integers(0, classes, 400)).astype(np.float64)
    assert accuracy(found, gold) == pytest.approx(library.accuracy_score(gold, found), rel=1e-12)
    assert macro_f1(found, gold) == pytest.approx(library.f1_score(gold, found, average="macro"), rel=1e-12)
    assert mcc(found, gold) == pytest.approx(library.matthews_corrcoef(gold, found), rel=1e-12)
    if classes == 2:
        assert f1(found, gold) == pytest.approx(library.f1_score(gold, found), rel=1e-12)


def test_macro_f1_of_a_worked_example(library):
    # Class 0: precision 1, recall 1/2; class 1: 1/3 and 1; class 2 is never found; nobody names others.
    assert macro_f1(values(0, 1, 1, 1), labels(0, 0, 1, 2)) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_matthews_correlation_of_two_classes_is_pearsons(library):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(3)
    gold = (random.random(300) < 0.2).astype(np.float32)
    found = np.where(random.random(300) < 0.7, gold, 1 - gold).astype(np.float64)
    assert mcc(found, gold) == pytest.approx(stats.pearsonr(found, gold.astype(np.float64))[0], rel=1e-12)


def test_the_area_under_the_curve_is_the_chance_that_a_1_scores_higher_than_a_0(library):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(4)
    gold = (random.random(300) < 0.3).astype(np.float32)
    scores = np.round(gold * 0.3 + random.random(300), 1).astype(np.float32)  # with equal ones
    ones, zeros = scores[gold == 1], scores[gold == 0]
    chance = stats.mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros))
    assert roc_auc(scores, gold) == pytest.approx(chance, rel=1e-12)
    assert roc_auc(scores, gold) == pytest.approx(library.roc_auc_score(gold, scores), rel=1e-12)


def test_where_all_labels_are_one_a_correlation_is_0_and_an_area_undefined():
    assert mcc(values(0, 1), labels(1, 1)) == mcc(values(1, 1), labels(0, 1)) == 0.0
    assert roc_auc(np.array([0.1, 0.9], dtype=np.float32), labels(1, 1)) is None


def judged(task, metric):
    return replace(task, metric=metric)


def test_a_task_has_the_metric_that_is_chosen_for_it_first_and_those_of_its_kind(library):
    task = judged(PARAPHRASE, "roc-auc")
    assert metric_names(task) == ["roc-auc", "accuracy", "f1"]
    scores = np.array([0.2, 0.4, 0.3], dtype=np.float32)
    found = task_metrics(task, values(0, 0, 0), labels(0, 1, 1), scores)
    assert found == {"roc-auc": 1.0, "accuracy": pytest.approx(1 / 3), "f1": 0.0}
    assert metric_names(judged(PARAPHRASE, "f1")) == ["f1", "accuracy"]
    assert main_metric(judged(STS, "spearman")) == "spearman"


@pytest.mark.parametrize("task", [SST, PARAPHRASE, STS], ids=lambda task: task.kind)
def test_each_kind_takes_the_metrics_of_its_lines_and_no_other(task):
    for entry in TABLE:
        if task.kind in entry.kinds:
            assert main_metric(judged(task, entry.name)) == entry.name
        else:
            with pytest.raises(InputError, match=f"metric is '{entry.name}', expected one of .* for kind {task.kind}"):
                judged(task, entry.name)


def test_without_scikit_learn_its_metrics_are_refused_and_the_others_are_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    check_metrics([SST, judged(PARAPHRASE, "f1"), judged(STS, "spearman")])
    for entry in TABLE:
        if entry.library:
            with pytest.raises(
                InputError, match=rf"--metric paraphrase={entry.name}: needs pip install -e '\.\[metrics"
            ):
                check_metrics([judged(PARAPHRASE, entry.name)])


def test_the_best_model_is_chosen_by_a_metric_that_its_task_has():
    check_best_metric(None, [SST])
    check_best_metric(("paraphrase", "f1"), [SST, PARAPHRASE])
    with pytest.raises(InputError, match=r"--best-metric sst\.mcc: not computed; add --metric sst=mcc"):
        check_best_metric(("sst", "mcc"), [SST, PARAPHRASE])
    with pytest.raises(InputError, match=r"--best-metric sts\.f1: sts .regression. can have pearson, spearman"):
        check_best_metric(("sts", "f1"), [SST, STS])


def test_an_undefined_metric_is_said_and_counts_as_0():
    metrics = {"sst": {"accuracy": 0.5}, "paraphrase": {"roc-auc": None, "accuracy": 0.8, "f1": 0.1}}
    tasks = [SST, judged(PARAPHRASE, "roc-auc")]
    assert dev_sum(metrics, tasks) == 0.5
    assert overall(metrics, tasks) == (None, 0.25)
    assert score_line(metrics) == "sst accuracy 0.500  paraphrase roc-auc undefined accuracy 0.800 f1 0.100"


def test_the_courses_score_is_of_its_own_metrics_whatever_judges_a_task():
    metrics = {**METRICS, "sst": {"macro-f1": 0.1, "accuracy": 0.5}}
    assert overall(metrics, [judged(SST, "macro-f1"), PARAPHRASE, STS]) == (
        pytest.approx((0.5 + 0.8 + 0.8) / 3),
        pytest.approx((0.1 + 0.8 + 0.6) / 3),
    )


def test_labels_and_answers_that_are_all_one_leave_chosen_metrics_undefined_in_words():
    ones, errors = np.ones(3, np.float32), np.zeros(3)
    assert weak_labels(judged(PARAPHRASE, "roc-auc"), "dev", ones).endswith("and roc-auc is undefined and counts as 0")
    assert weak_labels(judged(SST, "mcc"), "dev", ones).endswith("and mcc is undefined and counts as 0")
    assert weak_labels(judged(SST, "macro-f1"), "dev", ones).endswith("has the best score")
    assert weak_answers(judged(SST, "mcc"), ones, errors) == (
        "sst: the model answers 1 to every dev example, so that mcc is undefined and counts as 0"
    )
    assert weak_answers(judged(PARAPHRASE, "roc-auc"), ones, errors) == ""


def test_a_label_that_all_examples_have_is_spelled_as_the_data_spell_it():
    ones, errors = np.ones(3, np.float32), np.zeros(3)
    stars = replace(judged(SST, "mcc"), labels=("1", "2", "3", "4", "5"))
    assert weak_labels(stars, "train", ones).startswith("sst train: every label is 2, so")
    assert weak_answers(stars, ones, errors).startswith("sst: the model answers 2 to every dev example")
    mail = replace(PARAPHRASE, labels=("ham\n" * 100, "spam"))
    assert weak_labels(mail, "dev", ones).startswith("paraphrase dev: every label is spam, so")
    assert len(weak_labels(mail, "train", 0 * ones)) < 150
    assert "\n" not in weak_labels(mail, "train", 0 * ones)
    assert weak_labels(STS, "dev", 2.5 * ones).startswith("sts dev: every label is 2.5, so")


def test_files_hold_null_for_numbers_that_are_not_finite():
    value = {"a": [1.5, math.nan, (math.inf, 2)], "b": {"c": -math.inf, "d": None, "e": True, "f": "NaN"}}
    expected = {"a": [1.5, None, [None, 2]], "b": {"c": None, "d": None, "e": True, "f": "NaN"}}
    assert json.loads(json_text(value), parse_constant=pytest.fail) == expected
