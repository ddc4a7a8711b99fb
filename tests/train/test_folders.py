"""Folders of runs: that no two runs share one, and what is cleared away of a killed one."""

import pytest

from concord import load
from concord.bert.errors import InputError
from concord.train.outputs.folders import RunFolder, clear_folder, lost_its_states
from concord.train.outputs.log import MetricsLog
from concord.train.outputs.names import SUMMARY_FILE
from concord.train.outputs.saved_run import load_run
from concord.train.reporter import SILENT
from concord.train.reports.stored_run import read_run
from tests.train.small_runs import run_in_another_process


def test_runs_that_begin_in_the_same_second_get_folders_of_their_own(tmp_path):
    folders = [RunFolder(tmp_path / "runs" / "now-sst-none", numbered=True) for _ in range(3)]
    assert [folder.claim().name for folder in folders] == ["now-sst-none", "now-sst-none-2", "now-sst-none-3"]


def test_a_folder_that_was_asked_for_is_refused_where_another_run_began_in_it_meanwhile(tmp_path):
    (tmp_path / "out").mkdir()
    first, second = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "out")
    assert first.claim() == tmp_path / "out"
    with pytest.raises(InputError, match=r"--out .*out: another run has begun there meanwhile; give another"):
        second.claim()


def test_clearing_removes_what_a_run_writes_and_nothing_else(tmp_path):
    written = ["config.json", "config.json.123.part", "best/model.safetensors", "best/x.json.7.part"]
    others = ["notes.txt", "best/notes.json", "notes.part", "config.json.old"]
    (tmp_path / "best").mkdir()
    for name in written + others:
        (tmp_path / name).touch()
    files = ["config.json", "best/model.safetensors", "best/x.json", "metrics.jsonl", "gone/file"]
    clear_folder(tmp_path, files)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"best", *others}
    (tmp_path / "best" / "notes.json").unlink()
    clear_folder(tmp_path, files)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("steps", "evaluated", "expected"),
    [
        ([], [], False),
        ([1, 2, 3, 4], [0], False),  # the state of step 2 may have been on its way
        ([1, 2, 3, 4, 5], [0], True),  # it had to be there before that of step 4 was saved
        ([1, 2], [1], False),
        ([1, 2, 3], [1, 2], True),
    ],
)
def test_a_log_tells_whether_a_state_was_there(tmp_path, steps, evaluated, expected):
    log = MetricsLog(tmp_path)
    for step in steps:
        log.write({"event": "step", "step": step})
    for step in evaluated:
        log.write({"event": "evaluation", "step": step})
    log.close()
    assert lost_its_states(tmp_path, save_every=2) is expected
    (tmp_path / SUMMARY_FILE).touch()
    assert lost_its_states(tmp_path, save_every=2)


def test_nothing_is_cleared_while_a_run_is_under_way(tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_text("of the run")
    with run_in_another_process(tmp_path), pytest.raises(InputError, match="another process is writing it"):
        clear_folder(tmp_path, ["config.json", "metrics.jsonl"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("config.json", "metrics.jsonl"), "of the run"
    )
    clear_folder(tmp_path, ["config.json", "metrics.jsonl"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("file", "what"), [("seeds.json", "several seeds"), ("study.db", "a sweep")])
def test_a_folder_of_several_runs_is_no_run_and_its_runs_are_named(tmp_path, file, what):
    folder = tmp_path / "several"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / file).touch()
    for read in (load, lambda path: load_run(path, "cpu", SILENT), read_run):
        with pytest.raises(InputError, match=f"the runs of {what}, expected the folder of one run, of which none"):
            read(folder)
    for number in range(12):
        (folder / f"trial-{number}").mkdir()
        (folder / f"trial-{number}" / "metrics.jsonl").touch()
    names = "trial-0, trial-1, trial-2, trial-3, trial-4 and 7 more"
    for read in (load, lambda path: load_run(path, "cpu", SILENT), read_run):
        with pytest.raises(InputError, match=f"several: a folder of the runs of {what}, expected one of {names} in it"):
            read(folder)
