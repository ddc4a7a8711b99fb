"""The search for the encoder's rate: what it writes down is what it ran, and the budget takes what it chose."""

import json

import pytest

from bench import paper_rates
from concord.bert.errors import InputError
from concord.train.papers.budgets import BUDGETS
from concord.train.papers.results import checkout_results
from tests.train.small_runs import write_course_data


def test_the_rate_with_the_highest_overall_score_is_chosen_and_every_run_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr("concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None)
    data = write_course_data(tmp_path / "data")
    flags = ["--steps", "2", "--rates", "1e-4,0.5", "--model", "tiny", "--dev-examples", "20", "--out", str(tmp_path)]
    paper_rates.main(["--data", str(data), *flags, "--runs", str(tmp_path / "runs")])
    found = json.loads((tmp_path / "rates.json").read_text())
    best = max(found["runs"], key=lambda run: run["overall"])
    assert found["chosen"] == best["rate"]
    assert [(run["rate"], run["settings"]["learning_rate"], run["steps"]) for run in found["runs"]] == [
        (1e-4, pytest.approx(1e-4), 2),
        (0.5, pytest.approx(0.5), 2),
    ]
    assert not list((tmp_path / "runs").glob("rate-*"))
    page = (tmp_path / "rates.md").read_text()
    assert f"| {best['rate']:g} |" in page
    assert str(data) not in page
    assert ("no lower one" if best["rate"] == 1e-4 else "no higher one") in page


def test_a_search_that_was_stopped_goes_on_with_the_rates_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None)
    data = write_course_data(tmp_path / "data")
    flags = ["--data", str(data), "--steps", "2", "--model", "tiny", "--dev-examples", "20", "--out", str(tmp_path)]
    flags += ["--runs", str(tmp_path / "runs"), "--rates"]
    paper_rates.main([*flags, "1e-4"])
    before = json.loads((tmp_path / "rates.json").read_text())["runs"]
    run, tried = paper_rates.run.main, []

    def told(arguments):
        tried.append(arguments[arguments.index("--learning-rate") + 1])
        return run(arguments)

    monkeypatch.setattr(paper_rates.run, "main", told)
    paper_rates.main([*flags, "1e-4,1e-3"])
    found = json.loads((tmp_path / "rates.json").read_text())
    assert tried == ["0.001"]
    assert [one["rate"] for one in found["runs"]] == [1e-4, 1e-3]
    assert found["runs"][0] == before[0]
    assert found["command"].endswith(" --rates 0.0001,0.001")
    # Other settings are another search.
    paper_rates.main([*flags, "1e-3", "--steps", "1"])
    assert [one["steps"] for one in json.loads((tmp_path / "rates.json").read_text())["runs"]] == [1]


@pytest.mark.parametrize("rates", ["1e-4,fast", "0", "1e-4,-1"])
def test_a_rate_that_is_none_is_refused(tmp_path, rates):
    with pytest.raises(InputError, match="--rates"):
        paper_rates.main(["--rates", rates, "--out", str(tmp_path)])


def test_the_standard_budget_has_the_rate_that_the_committed_search_chose_and_its_page_the_searchs_figures():
    found = json.loads((checkout_results() / "rates.json").read_text())
    assert BUDGETS["standard"].rate == pytest.approx(found["chosen"] / found["paper_rate"])
    assert (checkout_results() / "rates.md").read_text() == paper_rates.table(found)
