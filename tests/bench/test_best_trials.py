"""Trials of concord/best: their parts compute what they say, finished ones stay, the page is that of the results."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch.nn import functional

from bench import best_trials
from bench.best_trials import TRIALS, Trial, write_data
from bench.trial_pages import trials_page
from bench.trial_parts import correlation, metric_head, neighbours, sts_twice, unordered_head
from concord.bert.errors import InputError
from concord.bert.heads import HeadSpec, cosine_head
from concord.kernels.dropout import DropoutStream
from concord.train.data.batching import build_sampler, proportional
from concord.train.data.tasks import BUILT_IN_TASKS
from concord.train.flags import build_parser, config_from
from concord.train.objectives.pairs import Pairs
from concord.train.papers.budgets import flags_of
from concord.train.settings.typed import fine_tuning_config
from tests.settings import fine_tuning
from tests.train.small_runs import write_course_data

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "best" / "trials"


def test_a_labels_neighbours_get_a_tenth_each():
    logits = torch.randn(3, 5, dtype=torch.float64)
    (sst,) = (task for task in BUILT_IN_TASKS if task.name == "sst")
    wanted = torch.tensor([[0.9, 0.1, 0, 0, 0], [0, 0.1, 0.8, 0.1, 0], [0, 0, 0, 0.1, 0.9]], dtype=torch.float64)
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(neighbours(logits, torch.tensor([0.0, 2.0, 4.0]), sst), expected)


def pairs_of(first, second, shares):
    stream = DropoutStream(torch.tensor(1))
    return Pairs(first=first, second=second, shares=shares, margin=0.0, epoch=torch.tensor(0.0), dropouts=stream)


def test_correlation_is_one_minus_pearsons():
    first, second, shares = torch.randn(12, 8), torch.randn(12, 8), torch.rand(12)
    expected = 1 - pearsonr(functional.cosine_similarity(first, second).numpy(), shares.numpy()).statistic
    assert correlation(pairs_of(first, second, shares)).item() == pytest.approx(expected, abs=1e-4)


def test_labels_that_are_all_one_have_no_gradient():
    first = torch.randn(4, 8).requires_grad_()
    correlation(pairs_of(first, torch.randn(4, 8), torch.full((4,), 0.5))).backward()
    assert torch.equal(first.grad, torch.zeros(4, 8))


def spec_of(build):
    form = {"hidden_size": 16, "outputs": 1, "pair": True, "pair_features": "difference", "dropout": 0.1}
    return HeadSpec(build=build, link="sigmoid", **form)


def test_a_metric_head_begins_as_the_cosine():
    head, cosine = metric_head(spec_of(metric_head)), cosine_head(spec_of(cosine_head))
    head.initialise(torch.Generator().manual_seed(1))
    pooled = torch.randn(8, 16)
    torch.testing.assert_close(head(pooled, None), cosine(pooled, None))
    head.map.weight.data[0] += 1
    assert not torch.allclose(head(pooled, None), cosine(pooled, None))


def test_an_unordered_head_answers_a_pair_the_same_either_way_round():
    head = unordered_head(spec_of(unordered_head))
    head.initialise(torch.Generator().manual_seed(1))
    pooled = torch.randn(8, 16)
    turned = pooled.view(4, 2, 16).flip(1).reshape(8, 16)
    torch.testing.assert_close(head(pooled, None), head(turned, None))
    assert head(pooled, None).std() > 0


def test_a_batch_has_sts_twice_and_the_others_as_in_proportion():
    sizes = {"sst": 80, "paraphrase": 400, "sts": 60}
    plan = fine_tuning(batch_size=9).batches
    twice, plain = sts_twice(sizes, plan), proportional(sizes, plan)
    assert twice.steps_per_epoch == 20
    read = [batch for (batch,) in twice.epoch(0)]
    (plain,) = next(plain.epoch(0))
    assert {task: len(read[0][task]) for task in sizes} == {task: len(plain[task]) for task in sizes} | {"sts": 6}
    assert sorted(np.concatenate([batch["sts"] for batch in read])) == sorted([*range(60), *range(60)])


def test_the_recipe_is_that_of_before_with_the_changes_of_the_best_trial():
    def recipe(path):
        return config_from(build_parser().parse(["--recipe", path]))

    trial = TRIALS["sts-twice-16"].settings
    before, best = recipe(str(best_trials.RECIPE)), recipe("concord/best")
    assert best.loss_weights == trial["loss_weights"]
    asked = {"recipe": "", "loss_weights": ("1",), "sampling_weights": ("1",)}
    assert replace(before, **asked) == replace(best, **asked)
    sizes = {"sst": 8544, "paraphrase": 42356, "sts": 6040}
    plan = fine_tuning_config(best).batches
    tried = sts_twice(sizes, plan).epoch(1)
    for (batch,), (expected,) in zip(build_sampler(plan, sizes).epoch(1), tried, strict=True):
        assert all(np.array_equal(batch[task], expected[task]) for task in sizes)


@pytest.mark.parametrize("name", TRIALS)
def test_a_trials_settings_are_those_of_a_run(name):
    settings = {**best_trials._JUDGED, **TRIALS[name].settings}
    config = config_from(build_parser().parse(["--recipe", str(best_trials.RECIPE), *flags_of(settings)]))
    assert {key: getattr(config, key) for key in settings} == settings
    assert fine_tuning_config(config)


SMALL = {"model": "tiny", "max_steps": 2, "stages": ("all:1",), "epochs": 1, "evaluate_every": 1, "dev_examples": 8}


def test_a_finished_trial_is_not_run_again_and_one_of_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None)
    monkeypatch.setattr(best_trials, "_JUDGED", best_trials._JUDGED | SMALL)
    monkeypatch.setattr(best_trials, "TRIALS", {"small": Trial("two steps", {"batch_size": 4}, implied=True)})
    data = write_course_data(tmp_path / "data")
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    best_trials.main([*arguments, "--seeds", "1,2"])
    results = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert results == ["small-seed-2.json", "small.json", "trials.md"]
    first = (tmp_path / "out" / "small.json").read_bytes()
    found = json.loads(first)
    assert [entry["step"] for entry in found["evaluations"]] == [1, 2]
    assert set(found["all_dev"]) == {"sst", "paraphrase", "sts"}
    best_trials.main(arguments)
    assert (tmp_path / "out" / "small.json").read_bytes() == first
    (tmp_path / "out" / "trials.md").unlink()
    best_trials.main([*arguments, "--trials", ""])
    assert "| small | 2 | " in (tmp_path / "out" / "trials.md").read_text()
    monkeypatch.setattr(best_trials, "TRIALS", {"small": Trial("two steps", {"batch_size": 2}, implied=True)})
    with pytest.raises(InputError, match="the trial had other settings; give another --out"):
        best_trials.main(arguments)


def test_implied_pairs_stand_behind_the_training_set(tmp_path):
    data = write_course_data(tmp_path / "data")
    path = data / "quora-train.csv"
    lines = path.read_text().splitlines()
    lines += [f"90{n}\tnew-{n}\t{pair}\t1.0" for n, pair in enumerate(("apples\tpears", "pears\tplums"))]
    path.write_text("\n".join(lines) + "\n")
    write_data(data, tmp_path / "out")
    assert (tmp_path / "out" / "quora-train.csv").read_text().splitlines()[: len(lines)] == lines
    added = [
        line.split("\t")[2:] for line in (tmp_path / "out" / "quora-train.csv").read_text().splitlines()[len(lines) :]
    ]
    assert {"apples", "plums", "1.0"} in map(set, added)


@pytest.mark.parametrize("flags", [["--trials", "recip"], ["--seeds", "one"]])
def test_what_cannot_be_tried_is_refused(tmp_path, flags):
    with pytest.raises(InputError, match=flags[0]):
        best_trials.main(["--data", str(tmp_path), *flags])


def test_the_committed_page_is_that_of_the_committed_results():
    found = best_trials.kept_results(RESULTS)
    assert (RESULTS / "trials.md").read_text(encoding="utf-8") == trials_page(found)


def result(seed, sst, paraphrase, sts):
    dev = {"sst": {"accuracy": sst}, "paraphrase": {"accuracy": paraphrase, "f1": 0.1}, "sts": {"pearson": sts}}
    return {
        "trial": "small",
        "what": "two steps",
        "settings": {"seed": seed, "dev_examples": 8},
        "all_dev": dev,
        "evaluations": [{"step": step, "dev": dev} for step in (1, 2)],
        "best_step": 2,
        "steps": 2,
        "seconds": 120.0,
        "device": "CPU",
        "precision": "fp32",
        "versions": {"torch": "2"},
        "commit": None,
        "surgery": {
            "pairs": {
                "sst-sts": {"mean_cosine": 0.25 * seed, "share": 0.5},
                "sst-paraphrase": {"mean_cosine": -0.5, "share": 0.75},
            },
            "gradient_norms": {"sst": seed + 1, "paraphrase": 1.0, "sts": 8.0},
            "change": 0.015 * seed,
        },
    }


def test_the_page_has_a_row_a_run_and_one_of_all_seeds():
    page = trials_page([result(1, 0.5, 0.8, 0.9), result(2, 0.4, 0.8, 0.8)]).splitlines()
    assert "| small | 1 | .500 (.500) | .800 (.800) | .900 (.900) | .733 | 2 of 2 | 2 |" in page
    assert "| small | 2 | .450 ± .071 | .800 ± .000 | .850 ± .071 | .700 ± .047 |" in page
    assert "| small | 2.5 | 1.0 | 8.0 | -0.500 to +0.375 | 50% to 75% | 2.2% |" in page
    assert "| goal | - | .515 | .875 | .885 | .758 |" in page
    assert not any("±" in line for line in trials_page([result(1, 0.5, 0.8, 0.9)]).splitlines())


def test_without_a_result_there_is_no_page(tmp_path):
    with pytest.raises(InputError, match="no result of a trial"):
        best_trials.main(["--data", str(tmp_path), "--trials", "", "--out", str(tmp_path)])
