"""The papers' tables: every system runs within the smallest budget, finished ones are left alone, figures are right."""

import csv
import json
from dataclasses import replace

import pytest

from bert.errors import InputError
from train import reproduce
from train.command import run_command
from train.config import RunConfig
from train.recipes import papers, read_paper, read_recipe, recipes
from train.reproduce import BUDGETS, budgeted
from train.reproduced_tables import row_scores, write_tables

FLAGS = ("--device", "cpu")


@pytest.mark.parametrize("name", recipes())
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_leaves_every_recipe_a_valid_configuration(name, budget):
    recipe = read_recipe(name)
    config, whole = RunConfig(**budgeted(recipe.settings, BUDGETS[budget])), RunConfig(**recipe.settings)
    if budget == "full":
        assert config == whole
        return
    assert config.epochs * config.steps_per_epoch <= max(config.epochs, BUDGETS[budget].steps)
    # What distinguishes a system is not what a budget touches.
    for kept in ("tasks", "surgery", "heads", "losses", "loss_weights", "pals", "batching", "until", "pair_encoding"):
        assert getattr(config, kept) == getattr(whole, kept)
    assert [item.split(":")[0] for item in config.stages] == [item.split(":")[0] for item in whole.stages]


def test_a_short_budget_keeps_the_stages_in_proportion():
    settings = budgeted(read_recipe("optimizing-multitask-bert/tuned").settings, BUDGETS["short"])
    assert settings["stages"] == ("heads:1", "all:4", "heads:1")
    assert (settings["epochs"], settings["milestones"], settings["steps_per_epoch"]) == (6, ("1", "5"), 20)
    assert settings["learning_rate"] == pytest.approx(2e-4)
    assert settings["head_learning_rate"] == ("0.001", "sst=0.001", "sts=0.001")


@pytest.mark.parametrize("paper", papers())
def test_every_system_of_a_paper_runs_and_its_tables_are_written(paper, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.run.Run._draw", lambda self: None)  # most of the time of so short a run
    assert run_command(reproduce.main, [paper, "--budget", "smoke", "--out", str(tmp_path / "out"), *FLAGS]) == 0
    for number, table in enumerate(read_paper(paper).tables, start=1):
        text = (tmp_path / "out" / f"table-{number}.md").read_text()
        with (tmp_path / "out" / f"table-{number}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["system"] for row in rows] == [row.name for row in table.rows]
        for row, written in zip(table.rows, rows, strict=True):
            for metric, figure in row.figures.items():
                assert float(written[f"{metric}_paper"]) == pytest.approx(figure, abs=1e-3)
                if metric != "overall" or {"sst", "paraphrase", "sts"} <= row.figures.keys():
                    assert written[f"{metric}_ours"] != ""
            assert row.name in text
        assert f"`python -m train.reproduce {paper} --budget smoke" in text
        assert (tmp_path / "out" / f"table-{number}.png").stat().st_size > 5000
    capsys.readouterr()
    # Everything is finished: a second call trains nothing.
    assert run_command(reproduce.main, [paper, "--budget", "smoke", "--out", str(tmp_path / "out"), *FLAGS]) == 0
    assert "python -m train.run" not in capsys.readouterr().out


def test_a_row_of_several_systems_takes_each_ones_own_task_and_adds_their_time():
    summaries = {
        name: {
            "dev": dev,
            "seconds": 10.0,
            "training_seconds": 5.0,
            "examples_per_second": speed,
            "epochs": [{}] * 5,
        }
        for name, dev, speed in (
            ("frozen-sst", {"sst": {"accuracy": 0.4}}, 100.0),
            ("frozen-paraphrase", {"paraphrase": {"accuracy": 0.7, "f1": 0.1}}, 50.0),
            ("frozen-sts", {"sts": {"pearson": 0.2, "spearman": 0.9}}, 150.0),
        )
    }
    paper = read_paper("bert-mastery")
    row = paper.tables[0].rows[0]
    found = row_scores(paper, row, summaries)
    assert {name: found[name] for name in ("sst", "paraphrase", "sts")} == {"sst": 0.4, "paraphrase": 0.7, "sts": 0.2}
    assert found["overall"] == pytest.approx((0.4 + 0.7 + 0.6) / 3)
    assert row_scores(replace(paper, overall="mean"), row, summaries)["overall"] == pytest.approx((0.4 + 0.7 + 0.2) / 3)
    assert (found["seconds"], found["seconds_per_epoch"], found["examples_per_second"]) == (30.0, 3.0, 100.0)
    assert row_scores(paper, row, {"frozen-sst": summaries["frozen-sst"]}) is None


def test_rows_that_are_not_finished_stay_empty(tmp_path):
    paper = read_paper("optimizing-multitask-bert")
    write_tables(paper, paper.tables, {}, tmp_path, command="python -m train.reproduce PAPER")
    text = (tmp_path / "table-1.md").read_text()
    assert "| Milestone baseline | -, .316, - | -, .369, - | -, -.009, - |" in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["bert-mastry"], "bert-mastery"),
        (["optimusbert", "--table", "2"], "tables 1 to 1"),
        (["optimusbert", "--budget", "tiny"], "smoke, short, full"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(arguments, reason):
    with pytest.raises(InputError, match=reason):
        reproduce.main(arguments)


def test_a_run_that_was_stopped_is_resumed(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("train.reproduce.run.main", called.append)
    monkeypatch.setattr("train.reproduce.Reproduction._write", lambda self, pictures: [])
    directory = tmp_path / "out" / "multitask"
    directory.mkdir(parents=True)
    (directory / "last.safetensors").touch()
    other = tmp_path / "out" / "pcgrad"
    other.mkdir()
    (other / "summary.json").write_text(json.dumps({}))
    reproduce.main(["optimusbert", "--out", str(tmp_path / "out")])
    resumed = [arguments for arguments in called if arguments[0] == "--resume"]
    assert resumed == [["--resume", str(directory)]]
    assert not any("optimusbert/pcgrad" in arguments for arguments in called)
