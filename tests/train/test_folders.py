"""Folders of runs: that no two runs share one, and what is cleared away of a killed one."""

import pytest

from concord.bert.errors import InputError
from concord.train.outputs.folders import RunFolder, clear_folder
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
