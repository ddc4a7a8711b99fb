"""The commit that a result names: of the checkout alone, and marked where what computes differs from it."""

import subprocess

import pytest

from concord.train.outputs import provenance
from concord.train.outputs.provenance import commit


def git(folder, *arguments):
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    result = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a file in each of three rooms, all in its one commit."""
    for room in ("kernels", "train", "docs"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    monkeypatch.setattr(provenance, "PROJECT", tmp_path.resolve())
    monkeypatch.delenv("CONCORD_COMMIT", raising=False)
    return tmp_path


def test_an_unchanged_checkout_is_of_its_commit(checkout):
    assert commit() == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("path", ["kernels/a.py", "train/a.py", "train/new.py", "bench/new.py", "setup.py"])
def test_a_change_of_what_computes_or_measures_is_told(checkout, path):
    (checkout / path).parent.mkdir(exist_ok=True)
    (checkout / path).write_text("2\n")
    assert commit() == git(checkout, "rev-parse", "HEAD") + "+changes"


@pytest.mark.parametrize("path", ["docs/a.py", "notes.txt", "runs/run/config.json"])
def test_results_and_other_files_are_no_change_of_it(checkout, path):
    (checkout / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout / path).write_text("2\n")
    assert commit() == git(checkout, "rev-parse", "HEAD")


def test_installed_in_a_folder_of_another_project_it_has_no_commit(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "PROJECT", checkout.resolve() / "train")
    assert commit() is None


def test_a_source_without_its_history_is_of_the_commit_that_it_was_copied_from(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    monkeypatch.delenv("CONCORD_COMMIT", raising=False)
    assert commit() is None
    monkeypatch.setenv("CONCORD_COMMIT", "0123456789")
    assert commit() == "0123456789"
