"""Parity tests run side by side; outcomes are counted for their module, and what was cut off counts for nothing."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import parity
from bench.parity import MODULES, Part, describe, main, parts_of, read_parity, run_parts

ROOT = Path(__file__).resolve().parent.parent.parent
OUTCOMES = {"passed": "", "failed": "<failure/>", "errors": "<error/>", "skipped": "<skipped/>"}


def write(folder, stem, module, *outcomes):
    folder.mkdir(exist_ok=True)
    tests = "".join(
        f'<testcase classname="{module}" name="test">{OUTCOMES[outcome]}</testcase>' for outcome in outcomes
    )
    path = folder / f"{stem}.xml"
    path.write_text(f"<testsuites><testsuite>{tests}</testsuite></testsuites>")
    return path


def test_outcomes_are_counted_by_module(tmp_path):
    path = write(tmp_path, "tests.test_a", "tests.test_a", "passed", "failed", "errors", "skipped", "passed")
    expected = {"tests/test_a.py": {"passed": 2, "failed": 2, "skipped": 1}}
    assert read_parity(path) == read_parity(tmp_path) == expected


def test_the_parts_of_a_module_are_added_up(tmp_path):
    write(tmp_path, "tests.test_a-1of2", "tests.test_a", "passed")
    write(tmp_path, "tests.test_a-2of2", "tests.test_a", "passed", "skipped")
    write(tmp_path, "tests.test_b", "tests.test_b", "failed")
    assert read_parity(tmp_path) == {
        "tests/test_a.py": {"passed": 2, "failed": 0, "skipped": 1},
        "tests/test_b.py": {"passed": 0, "failed": 1, "skipped": 0},
    }


def test_a_module_without_all_of_its_files_has_no_counts(tmp_path):
    write(tmp_path, "tests.test_a-1of3", "tests.test_a", "passed")
    write(tmp_path, "tests.test_a-3of3", "tests.test_a", "passed")
    write(tmp_path, "tests.test_b", "tests.test_b", "passed")
    assert list(read_parity(tmp_path)) == ["tests/test_b.py"]


def test_a_file_that_is_not_complete_or_not_there_counts_for_nothing(tmp_path):
    path = write(tmp_path, "tests.test_a", "tests.test_a", "passed")
    path.write_text(path.read_text()[:-20])
    assert read_parity(tmp_path) == read_parity(path) == read_parity(tmp_path / "none.xml") == {}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A tree of tests of its own, of which one module is slow."""
    monkeypatch.setattr(parity, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (tmp_path / "tests").mkdir()
    bodies = {
        "good": "def test_one(): pass\ndef test_two(): pass",
        "bad": "def test_one(): assert False",
        "slow": "def test_one(): pass\ndef test_two(): pass",
    }
    for name, body in bodies.items():
        (tmp_path / "tests" / f"test_{name}.py").write_text(body)
    monkeypatch.setattr(parity, "_DIVIDED", {"tests/test_slow.py": ("one", "not one")})
    return [f"tests/test_{name}.py" for name in bodies]


@pytest.mark.slow
def test_what_is_cut_off_is_named_and_the_rest_is_counted(modules, tmp_path, capsys, monkeypatch):
    whole = subprocess.run

    def cut(command, *, timeout, **options):
        if "not one" in command:  # where a real limit would depend on how busy the machine is
            raise subprocess.TimeoutExpired(command, timeout)
        return whole(command, timeout=timeout, **options)

    monkeypatch.setattr(subprocess, "run", cut)
    assert main([*modules, "--out", str(tmp_path / "out"), "--jobs", "4"]) == 1
    assert read_parity(tmp_path / "out") == {
        "tests/test_good.py": {"passed": 2, "failed": 0, "skipped": 0},
        "tests/test_bad.py": {"passed": 0, "failed": 1, "skipped": 0},
    }
    bad, slow, last = capsys.readouterr().out.splitlines()
    assert bad == "tests/test_bad.py: 1 of 1 tests failed"
    assert slow == "tests/test_slow.py: cut off (tests.test_slow-2of2)"
    assert last.startswith("1 of 3 modules passed;")
    assert "2 passed" in (tmp_path / "out" / "tests.test_good.log").read_text()


def test_what_has_not_begun_by_the_end_is_cut_off_too_and_leaves_no_older_file(modules, tmp_path):
    write(tmp_path / "out", "tests.test_good", "tests.test_good", "passed")
    assert run_parts([Part("tests/test_good.py")], tmp_path / "out", 1, 0.0) == {Part("tests/test_good.py"): None}
    assert read_parity(tmp_path / "out") == {}


def test_a_module_in_which_nothing_passed_is_named():
    part = Part("tests/test_a.py")
    assert describe({part: 1.0}, {})[0] == "tests/test_a.py: no test passed, see tests.test_a.log"
    assert len(describe({part: 1.0}, {"tests/test_a.py": {"passed": 1, "failed": 0, "skipped": 0}})) == 1


def test_the_expressions_of_a_divided_module_take_every_test_once():
    expressions = [part.chosen for module in parity._DIVIDED for part in parts_of([module])]
    words = {word for one in expressions for word in re.findall(r"\w+", one)} - {"and", "not", "or"}
    assert {"dtype0", "pcgrad", "default", "more4"} <= words
    names = ["", *words, *map("-".join, itertools.combinations(sorted(words), 2))]
    for module in parity._DIVIDED:
        chosen = [part.chosen for part in parts_of([module])]
        for name in names:
            taken = [eval(one, {word: word in name for word in words}) for one in chosen]
            assert sum(taken) == 1, (module, name)


@pytest.mark.slow
def test_no_part_of_a_divided_module_is_without_tests():
    divided = ["tests/kernels/test_embedding.py", "tests/train/test_graphs.py"]
    command = [sys.executable, "-m", "pytest", *divided, "--collect-only", "-q", "-p", "no:cacheprovider"]
    tests = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for module in divided:
        names = [name for name in tests if name.startswith(f"{module}::")]
        for part in parts_of([module]):
            words = set(re.findall(r"\w+", part.chosen)) - {"and", "not"}
            assert any(eval(part.chosen, {word: word in name for word in words}) for name in names), part


def test_every_module_that_a_ratio_rests_on_is_run():
    named = {
        module
        for file in (ROOT / "bench").glob("*.py")
        if file.name != "parity.py"
        for module in re.findall(r"\"(tests/[\w/]+\.py)\"", file.read_text())
    }
    assert "tests/kernels/test_gelu.py" in named
    assert named <= set(MODULES)
    assert all((ROOT / module).is_file() for module in MODULES)
