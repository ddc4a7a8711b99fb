"""Whole runs: what the best model is chosen by, and the end of a run that gets no better."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from concord.train import evaluate, run
from concord.train.command import run_command
from concord.train.runs.fine_tuning import FineTuning
from tests.train.small_runs import command, refused
from tests.train.test_run import contents, entries, same_state, stop_at

pytestmark = [pytest.mark.usefixtures("without_pictures"), pytest.mark.slow]

# Step of an evaluation -> what the best model is chosen by: after step 4 none is better, and the second such one ends
# the run.
SCORES = {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 10: 5.0, 12: 0.0}
EARLY = ("--evaluate-every", "2", "--early-stopping", "2", "--log-every", "5")


@pytest.fixture
def scores(monkeypatch):
    judge = FineTuning._judge

    def by_step(self, *arguments):
        score = SCORES[self.session.progress.steps]
        monkeypatch.setattr("concord.train.runs.fine_tuning.score_of", lambda *_: score)
        return judge(self, *arguments)

    monkeypatch.setattr(FineTuning, "_judge", by_step)


def strict(path):
    """The JSON of a file, or of each of its lines, which holds no NaN and no infinity."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def relabel(path, labels):
    """Give the rows of a set these labels, in turn."""
    header, *rows = path.read_text().splitlines()
    rows = [f"{row.rpartition(chr(9))[0]}\t{labels[index % len(labels)]}" for index, row in enumerate(rows)]
    path.write_text("\n".join([header, *rows]) + "\n")


def summary_of(out):
    """What an equal run's summary has equal."""
    (summary,) = strict(out / "summary.json")
    names = ("dev", "overall", "mean", "best_step", "best_metric", "stopped_early", "steps", "surgery")
    return {name: summary[name] for name in names} | {"epochs": [epoch["steps"] for epoch in summary["epochs"]]}


@pytest.fixture
def ended(data, tmp_path, scores):
    out = tmp_path / "ended"
    assert run_command(run.main, command(data, out, *EARLY)) == 0
    return out


def test_a_run_that_gets_no_better_ends_and_says_so(capsys, ended, data, tmp_path):
    printed = capsys.readouterr().out
    assert "stopped    early, after step 8 of 12: no better mean in 2 evaluations in a row\n" in printed
    assert f"written    {ended}" in printed
    summary = summary_of(ended)
    assert (summary["stopped_early"], summary["steps"], summary["best_step"]) == (True, 8, 4)
    assert summary["epochs"] == [6, 2], "the epoch that it ends in is counted too"
    assert [entry["step"] for entry in entries(ended) if entry["event"] == "evaluation"] == [2, 4, 6, 8]
    # It computed what a run without early stopping computes up to there.
    assert run_command(run.main, command(data, tmp_path / "whole", "--evaluate-every", "2", "--log-every", "5")) == 0
    assert summary_of(tmp_path / "whole")["stopped_early"] is False
    assert summary_of(tmp_path / "whole")["best_step"] == 10
    steps, others = (
        {entry["step"]: entry for entry in entries(out) if entry["event"] == "step"}
        for out in (ended, tmp_path / "whole")
    )
    assert steps[5] == others[5]


def test_a_run_that_has_ended_early_is_resumed_to_the_same_end(ended, capsys):
    before, log = summary_of(ended), entries(ended)
    capsys.readouterr()
    assert run_command(run.main, ["--resume", str(ended)]) == 0
    assert "stopped    early, after step 8 of 12" in capsys.readouterr().out
    assert summary_of(ended) == before
    assert entries(ended) == log
    assert "--early-stopping 3: the run in" in refused(capsys, run.main, ["--resume", ended, "--early-stopping", "3"])


@pytest.mark.parametrize("stop", [3, 6, 7, 8])
def test_a_stopped_run_ends_early_where_it_would_have(ended, data, tmp_path, monkeypatch, stop):
    """Stopped before and after evaluations without a better model, and at the one that ends the run."""
    stop_at(monkeypatch, stop)
    out = tmp_path / "stopped"
    code = run_command(run.main, command(data, out, *EARLY))
    stop_at(monkeypatch, 0)
    if stop == 8:
        assert code == 0, "nothing is left to do"
    else:
        assert code == 130
        assert not (out / "summary.json").exists()
        assert run_command(run.main, ["--resume", str(out)]) == 0
    assert same_state(out, ended)
    assert entries(out) == entries(ended)
    assert summary_of(out) == summary_of(ended)
    assert contents(out / "best") == contents(ended / "best")


@pytest.mark.parametrize("kill", [6, 8])
def test_a_killed_run_ends_early_where_it_would_have(ended, data, tmp_path, monkeypatch, kill):
    """Killed once an evaluation is logged, before the state that counts it is saved."""
    judge = FineTuning._judge

    def judge_and_die(self, *arguments):
        judge(self, *arguments)
        if self.session.progress.steps == kill:
            raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(FineTuning, "_judge", judge_and_die)
        out = tmp_path / "killed"
        with pytest.raises(RuntimeError, match="killed"):
            run.main(command(data, out, *EARLY))
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert same_state(out, ended)
    assert entries(out) == entries(ended)
    assert summary_of(out) == summary_of(ended)


@pytest.mark.parametrize("chosen", ["mean", "sts.spearman", "paraphrase.roc-auc"])
def test_the_best_model_is_the_first_with_the_best_value_of_what_is_named(data, tmp_path, chosen):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    relabel(data / "quora-dev.csv", ["1", "0"])
    more = ("--metric", "sst=macro-f1,paraphrase=roc-auc", "--best-metric", chosen, "--evaluate-every", "2")
    rates = ("--learning-rate", "5e-3", "--average", "0")
    assert run_command(run.main, command(data, out, *more, *rates)) == 0
    found = [entry for entry in entries(out) if entry["event"] == "evaluation"]
    if chosen == "mean":
        main = {"sst": "macro-f1", "paraphrase": "roc-auc", "sts": "pearson"}
        values = [sum(entry["dev"][task][name] for task, name in main.items()) for entry in found]
    else:
        task, name = chosen.split(".")
        values = [entry["dev"][task][name] for entry in found]
    assert max(values) > values[0], "the first one is not the best by chance"
    best = found[int(np.argmax(values))]
    summary = summary_of(out)
    assert (summary["best_metric"], summary["best_step"], summary["dev"]) == (chosen, best["step"], best["dev"])
    assert list(summary["dev"]["sst"]) == ["macro-f1", "accuracy"]


def test_evaluate_repeats_a_chosen_metric_from_the_runs_folder_alone(data, tmp_path, capsys):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    relabel(data / "quora-dev.csv", ["1", "0"])
    more = ("--metric", "sst=mcc,paraphrase=roc-auc", "--threshold", "dev", "--max-steps", "4")
    assert run_command(run.main, command(data, out, *more)) == 0
    dev = summary_of(out)["dev"]
    capsys.readouterr()
    assert run_command(evaluate.main, [str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"mcc {dev['sst']['mcc']:.3f} accuracy {dev['sst']['accuracy']:.3f}" in printed
    assert f"roc-auc {dev['paraphrase']['roc-auc']:.3f} accuracy" in printed


def test_a_dev_set_of_one_class_leaves_null_in_the_files_and_a_warning(data, tmp_path, capsys):
    pytest.importorskip("sklearn")
    relabel(data / "quora-dev.csv", ["1"])
    out = tmp_path / "run"
    more = ("--tasks", "paraphrase", "--metric", "roc-auc", "--max-steps", "2")
    assert run_command(run.main, command(data, out, *more)) == 0
    printed = capsys.readouterr().out
    assert "warning: paraphrase dev: every label is 1, so that whoever always answers so has the best score, and " in (
        printed
    )
    assert "roc-auc is undefined and counts as 0\n" in printed
    assert "dev paraphrase roc-auc undefined accuracy" in printed
    (evaluation,) = (entry for entry in strict(out / "metrics.jsonl") if entry["event"] == "evaluation")
    (summary,) = strict(out / "summary.json")
    assert evaluation["dev"]["paraphrase"]["roc-auc"] is summary["dev"]["paraphrase"]["roc-auc"] is None
    assert summary["mean"] == 0.0
    assert run_command(run.main, ["--resume", str(out)]) == 0
    capsys.readouterr()
    assert run_command(evaluate.main, [str(out)]) == 0
    assert "roc-auc undefined" in capsys.readouterr().out


def test_answers_that_are_not_finite_leave_null_in_the_log_and_no_best_model(data, tmp_path, capsys):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    flags = ("--tasks", "paraphrase", "--metric", "roc-auc", "--learning-rate", "1e12", "--weight-decay", "0")
    assert "no evaluation gave finite metrics" in refused(capsys, run.main, command(data, out, *flags))
    log = strict(out / "metrics.jsonl")
    found = [entry["dev"]["paraphrase"] for entry in log if entry["event"] == "evaluation"]
    assert found == [{"roc-auc": None, "accuracy": None, "f1": None}] * len(found)
    assert None in [entry["losses"]["paraphrase"] for entry in log if entry["event"] == "step"]


def test_class_weights_multiply_the_loss_of_their_task_alone(data, tmp_path, capsys):
    step = ("--max-steps", "1", "--skip-test")
    plain, twice, balanced = (tmp_path / name for name in ("plain", "twice", "balanced"))
    assert run_command(run.main, command(data, plain, *step)) == 0
    assert run_command(run.main, command(data, twice, *step, "--class-weights", "paraphrase=0:2+1:2")) == 0
    assert "weights    paraphrase 0 2, 1 2\n" in capsys.readouterr().out
    assert run_command(run.main, command(data, balanced, *step, "--class-weights", "sst=balanced")) == 0
    before, after, other = (entries(out)[0]["losses"] for out in (plain, twice, balanced))
    assert after["paraphrase"] == pytest.approx(2 * before["paraphrase"], rel=1e-6)
    assert (after["sst"], after["sts"]) == (before["sst"], before["sts"])
    assert other["sst"] != before["sst"]
    assert (other["paraphrase"], other["sts"]) == (before["paraphrase"], before["sts"])
    same, found = (load_file(out / "last.safetensors") for out in (plain, balanced))
    assert any((same[name] != found[name]).any() for name in same)
