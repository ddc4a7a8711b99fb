"""The papers' tables: every system runs within the smallest budget, finished ones are left alone, figures are right."""

import csv
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from concord.bert.errors import InputError
from concord.train import reproduce
from concord.train.command import run_command
from concord.train.outputs.progress import ConsoleReporter
from concord.train.papers.budgets import BUDGETS, budgeted
from concord.train.papers.tables import row_scores, write_tables
from concord.train.runs import session
from concord.train.settings.config import RunConfig
from concord.train.settings.recipes import papers, read_paper, read_recipe, recipes
from concord.train.steps.pretraining import Pretrainer
from tests.train.small_runs import refused

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


@pytest.mark.parametrize("budget", ["smoke", "short", "standard"])
def test_a_single_epoch_of_a_set_is_not_made_longer(budget):
    settings = budgeted(read_recipe("pals-and-gradient-vaccine/sts-triplet").settings, BUDGETS[budget])
    assert (settings["epochs"], settings["steps_per_epoch"]) == (1, 0)
    assert settings["max_steps"] == BUDGETS[budget].steps


def test_a_short_budget_keeps_the_stages_in_proportion():
    settings = budgeted(read_recipe("optimizing-multitask-bert/tuned").settings, BUDGETS["short"])
    assert settings["stages"] == ("heads:1", "all:4", "heads:1")
    assert (settings["epochs"], settings["milestones"], settings["steps_per_epoch"]) == (6, ("1", "5"), 20)
    assert settings["learning_rate"] == pytest.approx(2e-4)
    assert settings["head_learning_rate"] == ("0.001", "sst=0.001", "sts=0.001")


def test_the_standard_budget_takes_1500_steps_of_16_in_bf16_and_judges_all_dev_examples():
    settings = budgeted(read_recipe("bert-mastery/pair-sst-sts").settings, BUDGETS["standard"])
    assert settings["epochs"] * settings["steps_per_epoch"] == 1500
    assert (settings["batch_size"], settings["amp"], settings["dev_examples"]) == (16, "auto", 0)


@pytest.mark.slow
@pytest.mark.parametrize("paper", papers())
def test_every_system_of_a_paper_runs_and_its_tables_are_written(paper, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None
    )  # most of the time of so short a run
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
    results = {
        name: {
            "dev": dev,
            "seconds": 10.0,
            "training_seconds": 5.0,
            "examples_per_second": speed,
            "epochs": 5,
        }
        for name, dev, speed in (
            ("frozen-sst", {"sst": {"accuracy": 0.4}}, 100.0),
            ("frozen-paraphrase", {"paraphrase": {"accuracy": 0.7, "f1": 0.1}}, 50.0),
            ("frozen-sts", {"sts": {"pearson": 0.2, "spearman": 0.9}}, 150.0),
        )
    }
    paper = read_paper("bert-mastery")
    row = paper.tables[0].rows[0]
    found = row_scores(paper, row, results)
    assert {name: found[name] for name in ("sst", "paraphrase", "sts")} == {"sst": 0.4, "paraphrase": 0.7, "sts": 0.2}
    assert found["overall"] == pytest.approx((0.4 + 0.7 + 0.6) / 3)
    assert row_scores(replace(paper, overall="mean"), row, results)["overall"] == pytest.approx((0.4 + 0.7 + 0.2) / 3)
    assert (found["seconds"], found["seconds_per_epoch"], found["examples_per_second"]) == (30.0, 3.0, 100.0)
    assert row_scores(paper, row, {"frozen-sst": results["frozen-sst"]}) is None


def test_a_result_without_times_leaves_its_rows_times_empty():
    result = {"dev": {"sst": {"accuracy": 0.4}}, "seconds": None}
    paper = read_paper("bert-mastery")
    row = next(row for row in paper.tables[2].rows if row.name == "SST")
    assert row_scores(paper, row, {"equal-sst": result}) == {"sst": 0.4}


def test_rows_that_are_not_finished_stay_empty(tmp_path):
    paper = read_paper("optimizing-multitask-bert")
    write_tables(paper, paper.tables, {}, tmp_path)
    text = (tmp_path / "table-1.md").read_text()
    assert "| Milestone baseline | not yet run | -, .316, - | -, .369, - | -, -.009, - |" in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["bert-mastry"], "bert-mastery"),
        (["optimusbert", "--table", "2"], "tables 1 to 1"),
        (["optimusbert", "--budget", "tiny"], "smoke, short, standard, full"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(arguments, reason):
    with pytest.raises(InputError, match=reason):
        reproduce.main(arguments)


class Interrupted(Exception):
    """The process of a test ends here."""


@pytest.fixture
def two_systems(monkeypatch):
    """A paper of which but two systems are left, one of them pre-trained further; no picture is drawn."""
    monkeypatch.setattr("concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None)
    monkeypatch.setattr("concord.train.papers.tables._plot", lambda *arguments: None)
    paper = read_paper("mtl-surgery-mlm")
    rows = [row for row in paper.tables[0].rows if row.systems in (("fine-tuned",), ("mlm",))]
    assert len(rows) == 2
    small = replace(paper, tables=(replace(paper.tables[0], rows=tuple(rows)),))
    monkeypatch.setattr(reproduce, "read_paper", lambda name: small)


def reproduction(out, *more):
    return ["mtl-surgery-mlm", "--out", str(out), *FLAGS, *more]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def commands(printed):
    """The command lines that a reproduction ran, each without "python -m"."""
    return [line.split()[2:] for line in printed.splitlines() if line.startswith("  python -m")]


@pytest.mark.slow
@pytest.mark.usefixtures("two_systems")
def test_finished_runs_of_other_settings_are_refused_before_anything_is_run(tmp_path, data, capsys):
    out = tmp_path / "out"
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    before = contents(out)
    for flags, setting in (
        (("--data", str(data), "--seed", "2"), "--seed 2: the run in {} has 1"),
        ((), f"--data demo: the run in {{}} has {data}"),
        (("--data", str(data), "--amp", "bf16"), "--amp bf16: the run in {} has off"),
        (("--data", str(data), "--budget", "short"), "--model minilm: the run in {} has tiny"),
    ):
        message = refused(capsys, reproduce.main, reproduction(out, *flags))
        assert f"{setting.format(out / 'fine-tuned')}; give another --out" in message
    assert contents(out) == before
    # What has no effect on results may change, as may the way in which a folder is named.
    other = data / ".." / data.name
    capsys.readouterr()
    more = ("--data", str(other), "--skip-bad-rows", "--device", "auto")
    assert run_command(reproduce.main, reproduction(out, *more)) == 0
    assert commands(capsys.readouterr().out) == []


@pytest.mark.slow
@pytest.mark.usefixtures("two_systems")
@pytest.mark.parametrize("lacking", ["fine-tuned", "pretrained"])
def test_unfinished_runs_of_other_settings_are_not_resumed(tmp_path, data, capsys, lacking):
    """`lacking` has a saved state, and the others have nothing at all."""
    out = tmp_path / "out"
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    (out / lacking / "summary.json").unlink()
    for name in {"fine-tuned", "mlm", "pretrained"} - {lacking}:
        shutil.rmtree(out / name)
    for flag, value, kept in (("--seed", "2", "1"), ("--device", "auto", "cpu")):
        message = refused(capsys, reproduce.main, reproduction(out, "--data", str(data), flag, value))
        assert f"{flag} {value}: the run in {out / lacking} has {kept}; give another --out" in message


@pytest.mark.parametrize(("seed", "end"), [((), "smoke"), (("--seed", "2"), "smoke-seed-2")])
def test_the_runs_of_a_seed_have_a_folder_of_their_own(monkeypatch, seed, end):
    found = []
    monkeypatch.setattr(reproduce.Reproduction, "run", lambda self: found.append(self.out))
    reproduce.main(["bert-mastery", "--systems", "pair-sst-sts", *seed])
    assert found == [Path(f"runs/reproduce/bert-mastery-{end}")]


@pytest.mark.usefixtures("two_systems")
def test_finished_systems_need_no_pretrained_model(tmp_path, data, capsys):
    out = tmp_path / "out"
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    shutil.rmtree(out / "pretrained")
    capsys.readouterr()
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    assert commands(capsys.readouterr().out) == []


@pytest.mark.slow
@pytest.mark.usefixtures("two_systems")
@pytest.mark.parametrize("stop", ["pretrained", "fine-tuned"])
def test_ctrl_c_in_any_run_is_gone_on_from_by_the_same_command(tmp_path, data, capsys, monkeypatch, stop):
    """Pre-training, and a system's run: the state is saved, and the same command resumes it."""
    monkeypatch.setitem(BUDGETS, "smoke", replace(BUDGETS["smoke"], pretraining_steps=2))
    stopped = (Pretrainer, "_step") if stop == "pretrained" else (ConsoleReporter, "advance")
    step = getattr(*stopped)

    def press_ctrl_c(self, *arguments):
        monkeypatch.setattr(*stopped, step)
        signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(*stopped, press_ctrl_c)
    out = tmp_path / "out"
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 130
    assert (out / stop / "last.safetensors").exists()
    capsys.readouterr()
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    first, *others = commands(capsys.readouterr().out)
    assert first[1:] == ["--resume", str(out / stop)]
    assert all("--resume" not in arguments for arguments in others)
    assert len(list(out.glob("*/summary.json"))) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("two_systems")
@pytest.mark.parametrize("kill", ["pretrained", "fine-tuned"])
def test_a_run_that_was_killed_before_its_first_saved_state_begins_anew(tmp_path, data, capsys, monkeypatch, kill):
    def killed(directory, *arguments):
        if directory.name == kill:
            raise Interrupted
        write_state(directory, *arguments)

    write_state = session.write_state
    monkeypatch.setattr(session, "write_state", killed)
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        reproduce.main(reproduction(out, "--data", str(data)))
    monkeypatch.setattr(session, "write_state", write_state)
    (out / kill / "last.safetensors.12.part").touch()
    (out / kill / "notes.txt").write_text("years of work")
    assert "not empty" in refused(capsys, reproduce.main, reproduction(out, "--data", str(data)))
    assert contents(out / kill) == {out / kill / "notes.txt": b"years of work"}
    (out / kill / "notes.txt").unlink()
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    assert len(list(out.glob("*/summary.json"))) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("two_systems")
def test_a_damaged_summary_is_named_before_anything_runs_and_another_systems_is_not_read(tmp_path, data, capsys):
    out = tmp_path / "out"
    (out / "of-another-paper").mkdir(parents=True)
    (out / "of-another-paper" / "summary.json").write_text("{")
    assert run_command(reproduce.main, reproduction(out, "--data", str(data))) == 0
    (summary,) = out.glob("fine-tuned/summary.json")
    summary.write_text(summary.read_text()[:-20])
    assert f"{summary}: not JSON" in refused(capsys, reproduce.main, reproduction(out, "--data", str(data)))


@pytest.mark.usefixtures("two_systems")
def test_bad_rows_are_skipped_in_the_pretraining_too(tmp_path, data):
    with (data / "sts-train.csv").open("a", encoding="utf-8") as file:
        file.write("99\tx\tonly one sentence\n")
    arguments = reproduction(tmp_path / "out", "--data", str(data), "--skip-bad-rows")
    assert run_command(reproduce.main, arguments) == 0
