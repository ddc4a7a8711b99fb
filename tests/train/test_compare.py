"""Runs compared and listed: what is printed of them comes from their folders."""

import json

import numpy as np
import pytest

from concord.train import compare, run, runs_list
from concord.train.command import run_command
from concord.train.objectives.metrics import pearson
from concord.train.outputs.dev_answers import read_answers, write_answers
from concord.train.reports.comparing import columns
from concord.train.reports.paired import RESAMPLES, difference
from concord.train.reports.state import state_of
from concord.train.reports.stored_run import read_run
from tests.train.made_up_runs import TASKS, answers_of, evaluation, log_line, step, write_run
from tests.train.small_runs import command, refused, run_in_another_process

SST, PARAPHRASE, STS = TASKS
ENTRIES = [step(2), step(4), evaluation(4)]


def stored(path, task, gold, predicted, texts=None):
    write_answers(path, *answers_of(task, gold, predicted, texts=texts))
    return read_answers(path, task)


def rows_of(printed):
    """The name that a line begins with -> the rest of its cells."""
    cells = [line.split("  ") for line in printed.splitlines() if line]
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in cells}


@pytest.mark.slow
def test_real_runs_are_compared_by_what_they_left(data, tmp_path, capsys, without_pictures):
    for name, surgery in (("a", "pcgrad"), ("b", "none")):
        assert run_command(run.main, command(data, tmp_path / name, "--surgery", surgery, "--skip-test")) == 0
    capsys.readouterr()
    assert run_command(compare.main, [str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    rows = rows_of(capsys.readouterr().out)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab"]
    assert rows["A"] == [str(tmp_path / "a")]
    assert rows["--surgery"] == ["pcgrad", "none"]
    assert "--seed" not in rows
    assert rows["sts pearson"] == [f"{found['dev']['sts']['pearson']:.3f}" for found in summaries]
    assert rows["mean"] == [f"{found['mean']:.3f}" for found in summaries]
    assert rows["best step"] == [str(found["best_step"]) for found in summaries]
    assert rows["sst-sts"] == [f"{found['surgery']['model']['pairs']['sst-sts']['share']:.0%}" for found in summaries]
    # What is computed anew from the dev answers is what the run itself had.
    first, second = (read_run(tmp_path / name) for name in "ab")
    for task in TASKS:
        found = difference(task, [first.answers[task.name]], [second.answers[task.name]])
        expected = summaries[1]["dev"][task.name][found.metric] - summaries[0]["dev"][task.name][found.metric]
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.low <= found.value <= found.high
        assert found.examples == 10
    scores = first.answers["paraphrase"].scores
    assert ((scores > 0.5) == (first.answers["paraphrase"].predicted == 1)).all()
    assert (first.answers["sst"].scores >= 0.2).all()
    assert run_command(runs_list.main, [str(tmp_path)]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["state", "step", "mean", "finished", "run"]
    assert [line.split()[::4] for line in lines] == [["done", str(tmp_path / name)] for name in "ab"]


def test_an_interval_is_that_of_draws_that_take_the_same_examples_for_both(tmp_path):
    draw = np.random.default_rng(3)
    gold = draw.uniform(0, 5, 400).astype(np.float32)
    first = np.clip(gold + draw.normal(0, 1.5, 400), 0, 5)
    second = np.clip(first + draw.normal(0, 0.1, 400), 0, 5)
    one, other = stored(tmp_path / "a", STS, gold, first), stored(tmp_path / "b", STS, gold, second)
    found = difference(STS, [one], [other])
    assert found.value == pytest.approx(pearson(second, gold) - pearson(first, gold))
    # By the jackknife, another estimate of the same deviation.
    kept = [np.delete(np.arange(400), row) for row in range(400)]
    parts = [pearson(second[rows], gold[rows]) - pearson(first[rows], gold[rows]) for rows in kept]
    deviation = np.sqrt(399 / 400 * np.sum((parts - np.mean(parts)) ** 2))
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert RESAMPLES == 1000
    assert difference(STS, [one], [other]) == found


def test_only_examples_of_the_same_id_and_label_are_compared(tmp_path):
    one = stored(tmp_path / "a", SST, [0, 1, 2, 3], [0, 1, 2, 0])
    other = stored(tmp_path / "b", SST, [0, 1, 3, 3, 4], [0, 0, 3, 3, 4])  # the third has another label
    found = difference(SST, [one], [other])
    assert (found.examples, found.value) == (3, pytest.approx(2 / 3 - 2 / 3))
    assert difference(SST, [stored(tmp_path / "c", SST, [4], [4])], [stored(tmp_path / "d", SST, [1], [1])]) is None


def test_examples_are_paired_by_their_texts_where_rows_have_shifted_and_repeated_ones_one_by_one(tmp_path):
    gold, texts = [0, 1, 1, 2, 3, 3], ["a", "b", "c", "d", "e", "e"]
    one = stored(tmp_path / "a", SST, gold, gold, texts)
    other = stored(tmp_path / "b", SST, [4, *gold], [4, 0, 1, 1, 2, 3, 3], ["new", *texts])
    found = difference(SST, [one], [other])
    assert (found.examples, found.of_examples, found.value) == (6, 7, 0)


def test_older_answers_without_texts_are_paired_by_their_ids_and_no_row_is_left_out_for_its_id(tmp_path):
    stored(tmp_path / "a", SST, [0, 1, 2], [0, 1, 0])
    lines = [line.rpartition(",")[0] for line in (tmp_path / "a").read_text().splitlines()]
    (tmp_path / "old").write_text("\n".join([*lines, lines[-1]]) + "\n")
    old = read_answers(tmp_path / "old", SST)
    found = difference(SST, [old], [old])
    assert (found.examples, found.of_examples) == (4, 4)
    assert difference(SST, [old], [stored(tmp_path / "b", SST, [0, 1], [0, 0], ["x", "y"])]).examples == 2


def test_it_is_said_how_many_of_the_examples_both_have(tmp_path, capsys):
    for name, gold in (("a", [0, 1]), ("b", [0, 1, 2])):
        write_run(tmp_path / name, ENTRIES, {"sst": answers_of(SST, gold, gold)})
    assert run_command(compare.main, [str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "2 of 3 examples" in capsys.readouterr().out
    assert run_command(compare.main, [str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert " 2 examples" in capsys.readouterr().out


def test_runs_without_dev_answers_are_compared_all_the_same_and_it_is_said(tmp_path, capsys):
    write_run(tmp_path / "a", ENTRIES, {"sst": answers_of(SST, [0, 1], [0, 0])})
    write_run(tmp_path / "b", [*ENTRIES, step(6), evaluation(6, 0.75)], summed_up=False, surgery="pcgrad", seed=7)
    assert run_command(compare.main, [str(tmp_path / name) for name in "ab"]) == 0
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert rows["state"] == ["done", "stopped"]
    assert rows["best step"] == ["4", "6"]
    assert rows["sst accuracy"] == ["0.500", "0.750"]
    assert rows["seconds"] == ["12", "-"]
    assert rows["sst-sts"] == ["100%", "100%"]
    assert "none: the runs have no dev answers to the same task" in printed
    assert printed.endswith("no dev answers to some task, and so no difference: A, B\n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", "{}", "not the summary of a run of this version (commit)"),
        ("summary.json", '{"dev": []}', "not the summary of a run of this version"),
        ("sst-dev-answers.csv", "id,gold\n", "expected the header id,gold,predicted,score,error,tokens"),
        ("sst-dev-answers.csv", "id,gold,predicted,score,error,tokens\nx,1,2,nan,0,3\n", "expected an id and five"),
        ("sst-dev-answers.csv", "id,gold,predicted,score,error,tokens\nx,9,2,1,0,3\n", "expected labels of task sst"),
        (
            "sst-dev-answers.csv",
            "id,gold,predicted,score,error,tokens,texts\nx,1,2,1,0,3,z\n",
            "and 16 digits of texts",
        ),
        ("tasks.json", "[]", "not the tasks of a run"),
        ("metrics.jsonl", log_line(step(4)) + log_line(step(4)), "ValueError step 4 comes too late"),
        ("metrics.jsonl", log_line(step(1, loss="x")), "not the log of a fine-tuning run of this version"),
        ("metrics.jsonl", log_line({"event": "step", "step": 1}), "not the log of a fine-tuning run of this version"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, capsys, name, content, said):
    for folder in "ab":
        write_run(tmp_path / folder, ENTRIES)
    (tmp_path / "b" / name).write_text(content)
    message = refused(capsys, compare.main, [tmp_path / "a", tmp_path / "b"])
    assert str(tmp_path / "b" / name) in message
    assert said in message


def test_an_evaluation_that_lacks_a_task_is_refused(tmp_path, capsys):
    lacking = evaluation(4)
    del lacking["dev"]["sst"]
    runs = [write_run(tmp_path / name, [*ENTRIES[:2], lacking], summed_up=False) for name in "ab"]
    assert "an evaluation without sst's accuracy" in refused(capsys, compare.main, runs)


def test_one_run_is_nothing_to_compare(tmp_path, capsys):
    assert "expected from 2 to 26" in refused(capsys, compare.main, [tmp_path])
    assert "not the folder of a run" in refused(capsys, compare.main, [tmp_path, tmp_path])
    assert "27 runs, expected from 2 to 26" in refused(capsys, compare.main, [tmp_path] * 27)


def test_each_state_of_a_run_is_told_from_the_others(tmp_path, capsys):
    write_run(tmp_path / "deep" / "done", ENTRIES)
    stopped = write_run(tmp_path / "stopped", ENTRIES[:2], summed_up=False)
    (stopped / "last.safetensors").touch()
    write_run(tmp_path / "begun", [], summed_up=False)
    write_run(tmp_path / "lost", [step(1), step(9)], summed_up=False, save_every=2)
    write_run(tmp_path / "nan", [step(1), step(60, skipped_in_row=[59, 2, 0])], summed_up=False)
    undefined = write_run(tmp_path / "undefined", [*ENTRIES[:2], evaluation(4, float("nan"))], summed_up=False)
    (undefined / "last.safetensors").touch()
    (write_run(tmp_path / "torn", ENTRIES) / "summary.json").write_text("{")
    running = write_run(tmp_path / "running", ENTRIES, summed_up=False)
    with run_in_another_process(running):
        assert run_command(runs_list.main, [str(tmp_path)]) == 0
    rows = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:]]
    found = {row[4].removeprefix(f"{tmp_path}/").split()[0]: (row[0], row[1]) for row in rows}
    assert found == {
        "begun": ("stopped", "0"),
        "deep/done": ("done", "4"),
        "lost": ("failed", "9"),
        "nan": ("failed", "60"),
        "running": ("running", "4"),
        "stopped": ("stopped", "4"),
        "torn": ("failed", "4"),
        "undefined": ("failed", "4"),
    }
    reasons = {row[4].removeprefix(f"{tmp_path}/").split()[0]: row[4] for row in rows}
    assert "its saved states are gone" in reasons["lost"]
    assert "nothing was learned in the last 59 steps" in reasons["nan"]
    assert "scores that are not finite" in reasons["undefined"]
    assert state_of(running).name == "stopped"


def test_a_list_of_no_folder_or_no_runs_says_so(tmp_path, capsys):
    assert "no such folder" in refused(capsys, runs_list.main, [tmp_path / "none"])
    assert run_command(runs_list.main, [str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"


def test_columns_are_as_wide_as_their_widest_cell_but_for_titles():
    assert columns([["a long title"], ["x", "1"], ["long", "22", "3"], []]) == [
        "a long title",
        "x     1",
        "long  22  3",
        "",
    ]
