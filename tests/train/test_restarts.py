"""Runs whose processes are killed and started again with the same command line, as torchrun does with --max-restarts;
here one process, to which the environment says so."""

import pytest

from concord.train import run
from concord.train.command import run_command
from concord.train.outputs.folders import note_launch
from concord.train.runs.session import Session
from tests.train.made_up_runs import write_run
from tests.train.small_runs import command, refused
from tests.train.test_run import entries, same_state

pytestmark = pytest.mark.usefixtures("without_pictures")


class Killed(BaseException):
    pass


@pytest.fixture
def start(monkeypatch):
    """Starts a command in a launch: how often it was restarted, its arguments, and the method that it is killed in."""

    def started(restarts, arguments, method=""):
        variables = {"WORLD_SIZE": 1, "RANK": 0, "TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": restarts}
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, str(value))
            if not method:
                return run_command(run.main, list(map(str, arguments)))
            patch.setattr(Session, method, killed)
            with pytest.raises(Killed):
                run.main(list(map(str, arguments)))
        return None

    return started


def killed(*arguments):
    raise Killed


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("moments", [("save", "save"), ("_begin", "save")])
def test_a_run_that_is_killed_twice_before_its_first_state_goes_on_in_its_folder(
    data, tmp_path, monkeypatch, capsys, start, named, moments
):
    monkeypatch.chdir(tmp_path)
    settings = ("--max-steps", "4", "--save-every", "2")
    assert run_command(run.main, command(data, tmp_path / "whole", *settings)) == 0
    arguments = command(data, tmp_path / "runs" / "own", *settings)
    if not named:
        place = arguments.index("--out")
        del arguments[place : place + 2]
    for restarts, moment in enumerate(moments):
        start(restarts, arguments, moment)
    capsys.readouterr()
    assert start(2, arguments) == 0
    assert "resumed    as a new run: it was killed before its first saved state" in capsys.readouterr().out
    (log,) = (tmp_path / "runs").glob("*/metrics.jsonl")
    assert (log.parent / "launch.txt").read_text() == "job\n"
    assert same_state(log.parent, tmp_path / "whole")
    assert entries(log.parent) == entries(tmp_path / "whole")


def test_a_killed_run_of_a_file_of_settings_goes_on_by_the_same_command_line(data, tmp_path, capsys, start):
    file, out = tmp_path / "settings.toml", tmp_path / "run"
    file.write_text('model = "minilm"\nsurgery = "pcgrad"\nmax_steps = 4\nsave_every = 2\ntasks = ["sst", "sts"]\n')
    arguments = [*command(data, out), "--config", file]
    start(0, arguments, "write_summary")
    capsys.readouterr()
    assert start(1, arguments) == 0
    assert "resumed    after step " in capsys.readouterr().out
    assert (out / "summary.json").exists()


def test_settings_in_a_file_that_are_no_longer_those_of_the_run_are_refused_with_their_line(
    tmp_path, monkeypatch, capsys
):
    out, file = write_run(tmp_path / "run", summed_up=False, text="", max_steps=60, seed=5), tmp_path / "settings.toml"
    note_launch(out, "job")
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "TORCHELASTIC_RUN_ID": "job"}.items():
        monkeypatch.setenv(name, value)
    arguments = ["--config", file, "--out", out]
    file.write_text("seed = 5\nmax_steps = 7\n")
    said = f"--max-steps 7: the run in {out} has 60"
    assert refused(capsys, run.main, arguments) == f"error: {said} ({file}, line 2)\n"
    assert refused(capsys, run.main, [*arguments, "--max-steps", "7"]) == f"error: {said}\n"
    assert run_command(run.main, ["--print-config", *map(str, arguments), "--max-steps", "60"]) == 0
    assert "max_steps = 60 " in capsys.readouterr().out
