"""When surgery helps: the made-up conflict is what it says, finished points stay, gains are differences of seeds."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import when_surgery_helps
from bench.fixed_head import FixedHead
from bench.relabelled import Relabelled, same_sentences
from bench.surgery_points import EVERY_RULE, conflict_map, gains, points_table, times
from bench.when_surgery_helps import AXES, Point
from concord.bert.errors import InputError
from concord.train.outputs.advice import CONFLICT, TURN
from concord.train.outputs.names import LOCK_FILE
from concord.train.settings.tables import RULES as ALL_RULES
from tests.settings import fine_tuning
from tests.train.small_runs import lock_of_another_process, write_course_data

FIGURE = re.compile(r"(?<![\w.])[+-]?\d*\.\d+°?|(?<![\w.])\d+%|(?<![\w.])\d+°")
SETTINGS = re.compile(r"`[^`]*`|^    .*$", re.MULTILINE)  # flags and their values, and commands
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "surgery" / "results.json"


def labels(path):
    with path.open(newline="") as file:
        return [int(row["label"]) for row in csv.DictReader(file)]


def texts(path):
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_second_task_has_mirrored_labels_for_the_share_and_the_same_for_the_others(tmp_path, share, split):
    tasks = Relabelled(share=share).write(write_course_data(tmp_path / "data"), tmp_path / "out")
    plain, other = (labels(tasks.parent / f"{task}-{split}.csv") for task in ("plain", "mirrored"))
    flipped = [int((place + 1) * share) > int(place * share) for place in range(len(plain))]
    assert sum(flipped) == int(len(plain) * share)
    assert other == [4 - label if mirrored else label for label, mirrored in zip(plain, flipped, strict=True)]
    assert len(set(plain)) > 1


@pytest.mark.parametrize(("marked", "mark"), [(True, "mirrored : "), (False, "")])
def test_the_second_tasks_sentences_tell_it_from_the_first_where_they_are_marked(tmp_path, marked, mark):
    tasks = Relabelled(marked=marked).write(write_course_data(tmp_path / "data"), tmp_path / "out")
    plain, other = (texts(tasks.parent / f"{task}-train.csv") for task in ("plain", "mirrored"))
    assert other == [mark + text for text in plain]


def test_rotated_labels_are_two_further_round(tmp_path):
    tasks = Relabelled("rotated").write(write_course_data(tmp_path / "data"), tmp_path / "out")
    plain, other = (labels(tasks.parent / f"{task}-dev.csv") for task in ("plain", "rotated"))
    assert other == [(label + 2) % 5 for label in plain]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_sides_are_as_many_negative_as_positive_sentences_without_the_neutral_ones(tmp_path, split):
    data = write_course_data(tmp_path / "data")
    five = Relabelled().write(data, tmp_path / "five").parent / f"plain-{split}.csv"
    tasks = Relabelled(sides=True).write(data, tmp_path / "two")
    plain, other = (labels(tasks.parent / f"{task}-{split}.csv") for task in ("plain", "mirrored"))
    assert sum(plain) * 2 == len(plain) > 0
    assert other == [1 - label for label in plain]
    by_text = dict(zip(texts(five), labels(five), strict=True))
    found = dict(zip(texts(tasks.parent / f"plain-{split}.csv"), plain, strict=True))
    assert all(by_text[text] != 2 and (by_text[text] > 2) == label for text, label in found.items())


def test_batches_of_the_same_sentences_have_the_same_rows_of_each_task():
    plan = fine_tuning(batch_size=4, accumulate=2, epochs=2, seed=3).batches
    sampler = same_sentences({"plain": 20, "mirrored": 20}, plan)
    rows = [batch for epoch in range(2) for step in sampler.epoch(epoch) for batch in step]
    assert all(np.array_equal(batch["plain"], batch["mirrored"]) for batch in rows)
    assert sorted(np.concatenate([batch["plain"] for batch in rows]).tolist()) == sorted([*range(20)] * 2)


def test_a_fixed_head_is_one_for_all_tasks_and_has_nothing_to_learn():
    first, second = FixedHead(64, 5), FixedHead(64, 5)
    pooled = torch.randn(3, 64)
    assert torch.equal(first(pooled, None), second(pooled, None))
    assert list(first.parameters()) == []


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr("concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None)
    monkeypatch.setattr(
        when_surgery_helps, "AXES", {"share": [Point(1.0, Relabelled(), {"max_steps": 2, "batch_size": 4})]}
    )
    data = write_course_data(tmp_path / "data")
    arguments = ["--data", str(data), "--axes", "share", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "r")]
    when_surgery_helps.main([*arguments, "--seeds", "1"])
    first = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [run["settings"]["surgery"] for run in first] == ["none", "pcgrad", "gradvac", "mgda", "cagrad"]
    assert all(set(run["dev"]) == {"plain", "mirrored"} for run in first)
    when_surgery_helps.main([*arguments, "--seeds", "1,2"])
    both = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert both[:5] == first
    assert [run["settings"]["seed"] for run in both] == [1] * 5 + [2] * 5
    with monkeypatch.context() as changed:
        changed.setattr(
            when_surgery_helps, "AXES", {"share": [Point(1.0, Relabelled(), {"max_steps": 3, "batch_size": 4})]}
        )
        with pytest.raises(InputError, match="share 1 had other settings; give another --out"):
            when_surgery_helps.main([*arguments, "--seeds", "1"])
    assert (tmp_path / "out" / "conflicts.png").stat().st_size > 5000
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"token-cache", LOCK_FILE}


def test_two_processes_do_not_clear_one_anothers_runs(tmp_path):
    with (
        lock_of_another_process(tmp_path / LOCK_FILE),
        pytest.raises(InputError, match="another process is running what is in it"),
    ):
        when_surgery_helps.main(["--data", str(tmp_path), "--runs", str(tmp_path), "--out", str(tmp_path / "out")])


def entry(rule, seed, score, seconds=2.0):
    return {
        "axis": "share",
        "value": 0.5,
        "settings": {"surgery": rule, "seed": seed},
        "dev": {"plain": {"accuracy": score + 0.1}, "mirrored": {"accuracy": score - 0.1}},
        "mean": score,
        "pair": "plain-mirrored",
        "norms": {"plain": 4.0, "mirrored": 0.5},
        "processor_seconds": seconds,
        "steps": 100,
        "cosine": -0.1,
        "turn": 5.6,
        "conflicts": 0.6,
        "device": "CPU",
        "precision": "fp32",
        "versions": {"torch": "2"},
        "commit": None,
    }


def test_a_gain_is_the_mean_difference_of_the_seeds_that_both_rules_have():
    runs = [entry("none", 1, 0.4), entry("pcgrad", 1, 0.5), entry("none", 2, 0.5), entry("pcgrad", 2, 0.4)]
    assert gains([*runs, entry("pcgrad", 3, 0.9)], "pcgrad") == (pytest.approx(0.0), pytest.approx(0.02**0.5))
    assert gains(runs, "gradvac") is None
    table = points_table("python", runs).splitlines()
    assert "| share | 0.5 | 2 | -0.100 | 60% | 8.0 | 5.6° | 0.450 | +0.000 (0.141) |" in table
    assert "| share | 0.5 | mirrored | 0.350 | 0.350 |" in table


def test_the_map_is_that_of_the_runs_without_surgery():
    runs = [entry("none", 1, 0.4), {**entry("pcgrad", 1, 0.5), "cosine": 0.9, "turn": 0.0}]
    assert conflict_map(runs) == {"cosine": -0.1, "conflicts": 0.6, "ratio": 8.0, "turn": 5.6}
    assert conflict_map(runs[1:]) is None


def test_a_rules_time_is_what_a_step_takes_more_than_the_same_seeds_without_surgery():
    runs = [entry("none", 1, 0.4, 2.0), entry("none", 2, 0.4, 3.0)]
    runs += [entry("mgda", 1, 0.4, 2.4), entry("mgda", 2, 0.4, 3.2), entry("mgda", 3, 0.4, 90.0)]
    assert times(runs, "mgda") == (pytest.approx(3.0), 2)
    assert times(runs, "pcgrad") is None
    assert "| mgda | +3.0 | 2 |" in points_table("python", runs).splitlines()


def test_every_rule_has_a_row_in_a_table_of_its_own():
    runs = [entry("none", 1, 0.4), entry("pcgrad", 1, 0.5)]
    every = [{**run, "axis": EVERY_RULE} for run in (entry("none", 1, 0.4), entry("nashmtl", 1, 0.7, 2.4))]
    table = points_table("python", [*runs, *every]).splitlines()
    assert "| none | 0.500 | 0.300 | - | - |" in table
    assert "| nashmtl | 0.800 | 0.600 | +0.300 (0.000) | +4.0 |" in table
    assert "| none | 0.500 | 0.300 | - | - |" in points_table("python", every).splitlines()
    before = points_table("python", runs).splitlines()
    assert table[: len(before)] == before
    assert set(ALL_RULES.names) == set(AXES[EVERY_RULE][0].rules)


def test_a_point_of_an_axis_is_chosen_by_its_value():
    chosen = when_surgery_helps.chosen_points("opposed:0.3,five-classes")
    found = [(axis, point.value) for axis, point in chosen]
    assert found == [("opposed", 0.3), ("five-classes", 1.0), ("five-classes", 0.1)]


@pytest.mark.parametrize("flags", [["--axes", "oposed"], ["--axes", "opposed:0.2"], ["--seeds", "one"]])
def test_what_cannot_be_varied_is_refused(tmp_path, flags):
    with pytest.raises(InputError, match=flags[0]):
        when_surgery_helps.main(["--data", str(tmp_path), *flags])


def test_the_committed_table_has_the_figures_of_the_committed_results():
    found = json.loads(RESULTS.read_text())
    assert (RESULTS.parent / "table.md").read_text() == points_table(found["command"], found["runs"])


def test_every_figure_of_the_page_is_in_a_table_or_a_setting_or_a_threshold():
    page = SETTINGS.sub("", (RESULTS.parents[1] / "surgery.md").read_text())
    known = {*FIGURE.findall((RESULTS.parent / "table.md").read_text()), f"{CONFLICT:g}", f"{TURN:g}°"}
    known |= {*FIGURE.findall((RESULTS.parents[1] / "best" / "trials" / "trials.md").read_text())}
    told = FIGURE.findall(page)
    assert len(told) > 20
    known |= {figure.lstrip("+-") for figure in known}  # a page may call a gain below 0 a loss
    assert [figure for figure in told if figure not in known] == []
