"""Seeds judged together: each as it is evaluated, the means of their answers and of their weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench import seeds_together
from bench.seeds_together import ANSWERS, WEIGHTS, average_weights, mean_answers
from concord.train import evaluate
from concord.train.data.tasks import BUILT_IN_TASKS
from concord.train.outputs.saved_run import load_run
from concord.train.reporter import SILENT
from concord.train.steps.evaluation import ScoredAnswers
from tests.train.small_runs import refused, trained, write_course_data

TASKS = {task.name: task for task in BUILT_IN_TASKS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two runs that differ in their seed, and one of another rate."""
    folders = []
    for place, settings in enumerate(({"seed": 1}, {"seed": 2}, {"seed": 3, "learning_rate": 1e-3})):
        folder = tmp_path_factory.mktemp(f"run-{place}")
        write_course_data(folder / "data")
        trained(folder, pooling="mean", threshold="dev", dev_examples=5, skip_test=True, **settings)
        folders.append(folder / "run")
    return folders


def test_each_seed_is_judged_as_by_itself_on_all_dev_examples(runs, tmp_path, capsys):
    seeds_together.main([str(runs[0]), str(runs[1]), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "together.json").read_text())
    assert list(found["dev"]) == ["seed 1", "seed 2", ANSWERS, WEIGHTS]
    for run, seed in zip(runs, (1, 2), strict=False):
        for task, metrics in evaluate.main([str(run)]).items():
            assert found["dev"][f"seed {seed}"][task] == pytest.approx(metrics)
    page = (tmp_path / "together.md").read_text()
    assert page.count("\n| ") == 5
    assert page in capsys.readouterr().out
    assert "data" not in found["settings"]


def test_the_mean_of_weights_is_that_of_every_weight_and_threshold(runs):
    models = [load_run(run, "cpu", SILENT).model for run in runs[:2]]
    expected = [
        {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
        for model in models
    ]
    average_weights(models)
    found = dict((*models[0].named_parameters(), *models[0].named_buffers()))
    changed = 0
    for name, value in found.items():
        mean = (expected[0][name].double() + expected[1][name].double()) / 2
        assert value.detach().numpy() == pytest.approx(mean.numpy(), rel=1e-6, abs=1e-9), name
        changed += int(not np.array_equal(value.detach().numpy(), expected[0][name].numpy()))
    assert changed > len(found) / 2
    assert models[0].thresholds()["paraphrase"] == pytest.approx(float(found["heads.paraphrase.threshold"]))


def answers_of(*scores):
    return {name: ScoredAnswers(np.zeros(2), np.array(own, dtype=np.float32)) for name, own in scores}


def test_mean_answers_are_chosen_from_mean_scores():
    names = ("sst", "paraphrase", "sts")
    one = ([[0.9, 0.1], [0.4, 0.6]], [[0.4, 0.6], [0.9, 0.1]], [[1.0], [5.0]])
    other = ([[0.0, 1.0], [0.9, 0.1]], [[0.2, 0.8], [0.0, 1.0]], [[2.0], [4.0]])
    splits = {name: SimpleNamespace(task=TASKS[name]) for name in names}
    pair = [answers_of(*zip(names, scores, strict=True)) for scores in (one, other)]
    found = mean_answers(pair, splits, {"paraphrase": 0.6})
    assert found["sst"].predictions.tolist() == [1.0, 0.0]
    assert found["paraphrase"].predictions.tolist() == [1.0, 0.0]
    assert found["sts"].predictions.tolist() == [1.5, 4.5]
    assert mean_answers(pair, splits, {})["paraphrase"].predictions.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [((0,), "expected two or more"), ((0, 2), "its learning_rate is not that of"), ((0, 0), "the seed 1 is that of")],
)
def test_runs_that_are_no_seeds_of_one_recipe_are_refused(runs, tmp_path, capsys, chosen, message):
    said = refused(capsys, seeds_together.main, [*(runs[place] for place in chosen), "--out", tmp_path])
    assert message in said
