"""Results that outlive their runs: a system with a file counts as done, one of other settings is refused by name."""

import json
import shutil
from dataclasses import replace

import pytest

from concord.train import reproduce
from concord.train.command import run_command
from concord.train.papers.results import ResultFiles, checkout_results
from concord.train.settings.recipes import papers, read_paper
from tests.train.small_runs import refused

SYSTEMS = (("fine-tuned",), ("pcgrad",))


@pytest.fixture
def two_systems(monkeypatch):
    """A paper of which two systems are left; no picture is drawn."""
    monkeypatch.setattr("concord.train.runs.fine_tuning.FineTuning._draw", lambda self, entries: None)
    monkeypatch.setattr("concord.train.papers.tables._plot", lambda *arguments: None)
    paper = read_paper("mtl-surgery-mlm")
    rows = tuple(row for row in paper.tables[0].rows if row.systems in SYSTEMS)
    small = replace(paper, tables=(replace(paper.tables[0], rows=rows),))
    monkeypatch.setattr(reproduce, "read_paper", lambda name: small)


def reproduction(folder, *more):
    results = ("--results", str(folder / "results"))
    return ["mtl-surgery-mlm", "--out", str(folder / "out"), *results, "--device", "cpu", *more]


def runs_of(printed):
    """The systems that a reproduction ran."""
    return [line.split("/")[1].split(":")[0] for line in printed.splitlines() if line.startswith("mtl-surgery-mlm/")]


@pytest.mark.usefixtures("two_systems")
def test_a_system_with_a_result_of_these_settings_is_done_without_its_folder(tmp_path, data, capsys):
    arguments = reproduction(tmp_path, "--data", str(data))
    assert run_command(reproduce.main, [*arguments, "--systems", "pcgrad"]) == 0
    assert runs_of(capsys.readouterr().out) == ["pcgrad"]
    result = json.loads((tmp_path / "results" / "mtl-surgery-mlm" / "smoke" / "pcgrad.json").read_text())
    table = (tmp_path / "results" / "mtl-surgery-mlm" / "table-1.md").read_text()
    assert f"{result['dev']['sst']['accuracy']:.3f}".lstrip("0") in table
    assert "| Fine-tuned | not yet run |" in table
    assert "| PCGrad | smoke |" in table
    assert result["settings"]["surgery"] == "pcgrad"
    assert result["settings"]["data"].startswith("sha256:")
    shutil.rmtree(tmp_path / "out")
    elsewhere = shutil.copytree(data, tmp_path / "elsewhere")
    assert run_command(reproduce.main, reproduction(tmp_path, "--data", str(elsewhere))) == 0
    assert runs_of(capsys.readouterr().out) == ["fine-tuned"]


@pytest.mark.usefixtures("two_systems")
def test_a_result_of_other_settings_is_refused_before_anything_is_run_unless_it_is_named_anew(tmp_path, data, capsys):
    arguments = reproduction(tmp_path, "--data", str(data), "--systems", "pcgrad")
    assert run_command(reproduce.main, arguments) == 0
    kept = tmp_path / "results" / "mtl-surgery-mlm" / "smoke" / "pcgrad.json"
    before = kept.read_bytes()
    shutil.rmtree(tmp_path / "out")
    other = reproduction(tmp_path, "--data", str(data), "--amp", "bf16")
    message = refused(capsys, reproduce.main, other)
    assert f"--amp bf16: {kept} has off; give another --results, or --anew pcgrad" in message
    assert not (tmp_path / "out").exists()
    assert kept.read_bytes() == before
    with (data / "ids-sst-train.csv").open("a", encoding="utf-8") as file:
        file.write("99\tx\ta sentence more\t3\n")
    assert f"{kept} has sha256:" in refused(capsys, reproduce.main, arguments)
    assert run_command(reproduce.main, [*other, "--systems", "pcgrad", "--anew", "pcgrad"]) == 0
    assert json.loads(kept.read_text())["settings"]["amp"] == "bf16"


@pytest.mark.usefixtures("two_systems")
def test_every_seed_has_a_file_of_its_own_and_the_table_their_mean_and_deviation(tmp_path, data):
    scores = []
    for seed, suffix in ((1, ""), (2, "-seed-2")):
        arguments = reproduction(tmp_path / str(seed), "--data", str(data), "--systems", "pcgrad", "--seed", str(seed))
        assert run_command(reproduce.main, [*arguments, "--results", str(tmp_path / "results")]) == 0
        path = tmp_path / "results" / "mtl-surgery-mlm" / "smoke" / f"pcgrad{suffix}.json"
        # So short a run may answer alike with every seed.
        result = json.loads(path.read_text())
        result["dev"]["sst"]["accuracy"] = seed / 10
        path.write_text(json.dumps(result))
        scores.append(result["dev"]["paraphrase"]["accuracy"])
    assert run_command(reproduce.main, [*arguments, "--results", str(tmp_path / "results")]) == 0
    table = (tmp_path / "results" / "mtl-surgery-mlm" / "table-1.md").read_text()
    (line,) = (line for line in table.splitlines() if line.startswith("| PCGrad |"))
    assert line.startswith("| PCGrad | smoke, 2 seeds | .150 ± .071, .669, -.519 |")
    assert f"| {sum(scores) / 2:.3f}".replace("0.", ".", 1) in line


@pytest.mark.usefixtures("two_systems")
def test_a_finished_run_whose_result_is_missing_gives_it_again(tmp_path, data, capsys):
    arguments = reproduction(tmp_path, "--data", str(data), "--systems", "pcgrad")
    assert run_command(reproduce.main, arguments) == 0
    kept = tmp_path / "results" / "mtl-surgery-mlm" / "smoke" / "pcgrad.json"
    before = kept.read_bytes()
    kept.unlink()
    capsys.readouterr()
    assert run_command(reproduce.main, arguments) == 0
    assert runs_of(capsys.readouterr().out) == []
    assert kept.read_bytes() == before


def test_a_result_that_does_not_say_how_it_was_made_is_no_result_of_these_settings(tmp_path, capsys):
    files = ResultFiles(tmp_path / "optimusbert")
    path = files.write("short", "pcgrad", "python", {"seed": 1}, {"dev": {}})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": None}))
    arguments = ["optimusbert", "--budget", "short", "--out", str(tmp_path / "out"), "--results", str(tmp_path)]
    assert "--anew pcgrad" in refused(capsys, reproduce.main, arguments)
    path.write_text("{")
    assert f"{path}: not JSON" in refused(capsys, reproduce.main, arguments)


@pytest.mark.parametrize("flag", ["--systems", "--anew"])
def test_systems_that_there_are_not_are_refused_with_the_nearest_name(tmp_path, capsys, flag):
    arguments = ["optimusbert", "--results", str(tmp_path), "--out", str(tmp_path / "out"), flag, "pcgrd"]
    message = refused(capsys, reproduce.main, arguments)
    assert f"{flag} pcgrd" in message
    assert "pcgrad" in message


def test_nothing_is_run_anew_where_no_results_are_kept(tmp_path, capsys):
    arguments = ["optimusbert", "--budget", "short", "--out", str(tmp_path / "out"), "--anew", "pcgrad"]
    assert "give --results" in refused(capsys, reproduce.main, arguments)


@pytest.mark.parametrize("name", papers())
def test_every_figure_of_the_committed_tables_comes_from_a_committed_result(name, tmp_path):
    from concord.train.papers.tables import write_tables

    folder, paper = checkout_results() / name, read_paper(name)
    systems = [system for table in paper.tables for row in table.rows for system in row.systems]
    written = write_tables(paper, paper.tables, ResultFiles(folder).read(systems), tmp_path, pictures=False)
    assert len(written) == 2 * len(paper.tables)
    for path in written:
        assert (folder / path.name).read_text() == path.read_text(), path.name
