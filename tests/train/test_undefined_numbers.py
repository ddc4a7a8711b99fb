"""Numbers that a run could not compute are null in its files, and no reader of these fails on them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train import compare, report, runs_list
from concord.train.command import run_command
from concord.train.data.tasks import Example
from concord.train.objectives.metrics import roc_auc
from concord.train.outputs.dev_answers import read_answers, write_answers
from concord.train.outputs.live_line import live_line
from concord.train.outputs.mistakes import write_mistakes
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.side_by_side import SideBySide
from concord.train.reports.judged import answers_of as figures_of_answers
from concord.train.reports.paired import difference
from concord.train.reports.state import state_of
from concord.train.reports.stored_run import StoredRun, read_run
from concord.train.steps.evaluation import Answers
from tests.train.made_up_runs import PAIRS, TASKS, answers_of, evaluation, step, summary, write_run
from tests.train.small_runs import trained, write_course_data

SST, PARAPHRASE, STS = TASKS
NAN = float("nan")
OVERFLOWED = {
    "losses": {"sst": NAN, "paraphrase": 1.0, "sts": 1.0},
    "gradient_norms": {"sst": NAN, "paraphrase": 0.5, "sts": 0.5},
    "merged_norm": NAN,
    "cosines": dict.fromkeys(PAIRS, NAN),
    "applied": False,
}


def undefined(number):
    """An evaluation one of whose metrics is not defined on the dev set."""
    found = evaluation(number)
    found["dev"]["paraphrase"]["roc-auc"] = None
    return found


@pytest.fixture
def runs(tmp_path):
    """Two runs with a skipped step and a metric that is undefined, one done and one stopped."""
    entries = [step(2), step(4, **OVERFLOWED), step(6), undefined(6)]
    for name, summed_up in (("done", True), ("stopped", False)):
        directory = write_run(tmp_path / name, entries, summed_up=summed_up)
        if summed_up:
            (directory / "summary.json").write_text(json.dumps(summary(entries, dev=undefined(6)["dev"])))
        else:
            (directory / "last.safetensors").touch()
    return tmp_path


def test_a_run_with_nulls_is_read_listed_compared_and_reported(runs, capsys):
    for name, state in (("done", "done"), ("stopped", "stopped")):
        found = read_run(runs / name)
        assert (found.state.name, found.state.reason) == (state, "")
        assert found.best == (6, undefined(6)["dev"])
        assert np.isnan(found.log.column("cosines", "sst-sts").values).tolist() == [False, True, False]
        assert run_command(report.main, [str(runs / name)]) == 0
        assert "paraphrase accuracy 0.750 f1 0.500 roc-auc undefined" in (runs / name / "report.html").read_text()
    assert run_command(compare.main, [str(runs / "done"), str(runs / "stopped")]) == 0
    assert run_command(runs_list.main, [str(runs)]) == 0
    assert "failed" not in capsys.readouterr().out


def test_an_evaluation_without_any_metric_of_a_task_is_not_the_best(tmp_path):
    spoilt = evaluation(4, NAN)
    directory = write_run(tmp_path / "run", [step(2), evaluation(2, 0.25), step(4), spoilt], summed_up=False)
    (directory / "last.safetensors").touch()
    assert read_run(directory).best[0] == 2
    assert state_of(directory).reason == "its last evaluation gave scores that are not finite"


def test_the_live_line_of_several_runs_says_which_loss_is_no_number():
    spoken = SideBySide(ConsoleReporter())
    spoken.tell("a", {"event": "plan", "steps_per_epoch": 4, "total_steps": 4, "done": 0})
    losses = {"sst": None, "sts": 0.5}
    spoken.tell(
        "a", {"event": "step", "step": 2, "epoch": 0, "losses": losses, "examples_per_second": 1, "conflicts": {}}
    )
    assert "loss sst nan sts 0.500" in live_line(spoken._standings["a"], 100)


@pytest.mark.slow
def test_a_run_whose_logged_steps_overflow_comes_to_its_end(tmp_path, pictures):
    write_course_data(tmp_path / "data")
    settings = {"amp": "fp16", "log_every": 1, "epochs": 5, "skip_test": True, "tasks": ("sst", "sts")}
    done = trained(tmp_path, loss_weights=("1", "sst=3000"), **settings)
    assert done.summary["skipped_steps"] > 0
    steps = [json.loads(line) for line in (done.directory / "metrics.jsonl").read_text().splitlines()]
    skipped = [entry for entry in steps if entry["event"] == "step" and not entry["applied"]]
    assert skipped[0]["gradient_norms"]["sst"] is None
    assert skipped[0]["cosines"]["sst-sts"] is None
    assert isinstance(read_run(done.directory), StoredRun)
    assert (done.directory / "report.html").is_file()


def stored(path, task, gold, predicted, scores=None):
    write_answers(path, *answers_of(task, gold, predicted, scores))
    return read_answers(path, task)


def test_a_metric_of_scores_is_compared_by_the_scores(tmp_path):
    task = replace(PARAPHRASE, metric="roc-auc")
    gold = np.array([0, 1, 0, 1, 1, 0, 1, 0, 0, 1] * 4)
    draw = np.random.default_rng(1)
    scores = [np.clip(gold * spread + draw.uniform(0, 0.5, 40), 0, 1) for spread in (0.1, 0.3)]
    first, second = (
        stored(tmp_path / name, task, gold, np.zeros(40), own) for name, own in zip("ab", scores, strict=True)
    )
    found = difference(task, [first], [second])
    assert found.metric == "roc-auc"
    assert found.value == pytest.approx(roc_auc(scores[1], gold) - roc_auc(scores[0], gold))
    assert found.low < found.value < found.high


@pytest.mark.parametrize("gold", [[1, 0, 1], [1, 1, 1]], ids=["some draws have one class", "all have"])
def test_draws_by_which_a_metric_is_undefined_are_left_out(tmp_path, gold):
    task = replace(PARAPHRASE, metric="roc-auc")
    first = stored(tmp_path / "a", task, gold, [0, 0, 0], [0.1, 0.2, 0.3])
    second = stored(tmp_path / "b", task, gold, [0, 0, 0], [0.3, 0.1, 0.2])
    found = difference(task, [first], [second])
    assert (found is None) == (0 not in gold)
    if found:
        assert found.value == pytest.approx(0.5)
        assert found.low <= found.value <= found.high


def test_dev_scores_beyond_those_of_the_training_set_are_read_and_shown_as_they_are(tmp_path):
    task = replace(STS, low=1.0, high=4.0)
    gold = np.array([0.5, 2.5, 5.0], dtype=np.float32)
    own = stored(tmp_path / "answers.csv", task, gold, [1.0, 2.5, 4.0])
    assert own.gold.tolist() == gold.tolist()
    directory = write_run(tmp_path / "run", [step(2), evaluation(2)])
    run = replace(read_run(directory), answers={"sts": own})
    scatter, scores = figures_of_answers(run, task)
    assert scatter.drawing and scores.drawing
    examples = [Example(str(row), "a", "b", float(label)) for row, label in enumerate(gold)]
    answers = Answers(own.predicted, np.array([0.1, 0.0, 0.3]))
    write_mistakes(tmp_path / "mistakes.csv", task, examples, answers, 5)
    rows = [line.split(",") for line in (tmp_path / "mistakes.csv").read_text().splitlines()]
    assert [row[2] for row in rows[1:]] == ["5.0000", "0.5000"]


@pytest.mark.parametrize("predicted", [0.9, 4.1])
def test_an_answer_beyond_the_scores_of_the_training_set_is_no_answer(tmp_path, predicted):
    task = replace(STS, low=1.0, high=4.0)
    write_answers(tmp_path / "answers.csv", *answers_of(task, [2.0], [predicted]))
    with pytest.raises(InputError, match="row 1 is"):
        read_answers(tmp_path / "answers.csv", task)
