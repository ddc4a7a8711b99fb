"""pytest --sanitize, on a file of small tests of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.interpreter import plugin
from tests.interpreter.support import BF16_IS_TRUE

pytestmark = pytest.mark.skipif(not BF16_IS_TRUE, reason="needs the interpreter of Triton 3.7")
ROOT = Path(__file__).parents[2]

TESTS = """
import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _pass_on_kernel(x, count, seen):
    program = tl.program_id(0)
    tl.store(x + program + 1, tl.load(x + program) + 1)


@triton.jit
def _double_kernel(x):
    tl.store(x + tl.program_id(0), tl.load(x + tl.program_id(0)) * 2)


def pass_on():
    x = torch.zeros(9)
    _pass_on_kernel[(8,)](x, None, None)
    return x.tolist()


@pytest.fixture
def faulty():
    return pass_on()


def test_clean():
    x = torch.ones(8)
    _double_kernel[(8,)](x)
    assert (x == 2).all()


def test_at_fault():
    pass_on()


def test_wrong_and_at_fault():
    assert sorted(pass_on()) == "something else"


def test_skipped_though_at_fault():
    pass_on()
    pytest.skip("for no reason")


def test_with_a_fixture_at_fault(faulty):
    pass


@pytest.mark.parametrize("number", range(4))
def test_order(number):
    print("passed on:", number, pass_on())


@pytest.mark.unwatched
def test_at_fault_in_a_whole_run():
    assert pass_on() == [float(number) for number in range(9)]  # in the interpreter's own order


def test_at_fault_after_a_whole_run():
    pass_on()


def test_clean_again():
    test_clean()
"""


def run(folder, *options):
    """What pytest prints of TESTS, and how they ended: {outcome: how many}."""
    file = folder / "test_small_kernels.py"
    file.write_text(TESTS, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        file,
        "-p",
        "tests.conftest",
        f"--rootdir={ROOT}",
        "-c",
        ROOT / "pyproject.toml",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command += ["-p", "no:cacheprovider", "-rA", *options]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    counts = printed.splitlines()[-1]
    return printed, {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", counts)}


def orders(printed):
    """Test -> what its kernel left, which depends on the order of its programs."""
    return dict(re.findall(r"passed on: (\d+) (\[.*\])", printed))


@pytest.mark.slow
def test_a_test_fails_for_what_its_launches_did_and_no_other_one(tmp_path):
    printed, counts = run(tmp_path, "--sanitize", "-n", "2")
    assert counts == {"passed": 3, "failed": 8, "error": 1}
    seed = re.search(r"^kernels: sanitized, --sanitize-order shuffle --sanitize-seed (\d+)$", printed, re.MULTILINE)[1]
    report = printed.partition("_ test_at_fault _")[2].partition("\n_")[0]
    assert re.search(
        r"test_small_kernels\.py:11: program \(\d, 0, 0\) of \S*test_small_kernels\._pass_on_kernel "
        r"(loads what|stores where) program \(\d, 0, 0\) (stores|loads): bytes \d+ to \d+ of `x`, float32 \[9\]",
        report,
    )
    assert f"(pytest --sanitize --sanitize-order shuffle --sanitize-seed {seed})" in report
    # A failure of the test's own comes first, and the finding beside it.
    report = printed.partition("_ test_wrong_and_at_fault _")[2].partition("\n_")[0]
    assert "something else" in report
    assert "Captured sanitizer" in report
    again, _ = run(tmp_path, "--sanitize", "--sanitize-seed", seed, "-k", "order")
    assert len(set(orders(printed).values())) > 1
    assert orders(again) == orders(printed)


@pytest.mark.slow
def test_without_the_option_nothing_is_watched(tmp_path):
    printed, counts = run(tmp_path)
    assert counts == {"passed": 10, "failed": 1, "skipped": 1}
    assert "kernels:" not in printed
    assert set(orders(printed).values()) == {str([float(number) for number in range(9)])}


@pytest.mark.parametrize(
    ("interpreted", "known", "sanitize", "expected"),
    [
        (True, True, False, None),
        (True, False, False, "without bf16 and --sanitize, which need triton 3.7's interpreter"),
        (True, False, True, "without bf16 and --sanitize, which need triton 3.7's interpreter"),
        (False, True, False, None),
        (False, False, True, "compiled, and not sanitized"),
    ],
)
def test_the_header_says_what_is_left_out(interpreted, known, sanitize, expected, monkeypatch):
    monkeypatch.setattr(plugin, "INTERPRETED", interpreted)
    monkeypatch.setattr(plugin, "IS_KNOWN", known)
    line = plugin.pytest_report_header(SimpleNamespace(option=SimpleNamespace(sanitize=sanitize)))
    assert line is None if expected is None else line.startswith(f"kernels: {expected}")
