"""bench/gpu.sh: what it names is there, and where it cannot measure it says so at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "bench" / "gpu.sh"


def run(out, **environment):
    command = ["bash", str(SCRIPT), *([str(out)] if out else [])]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_the_tests_and_benchmarks_that_it_names_exist():
    named = re.findall(r"((?:tests|bench)/[\w/]+\.py)(?:::(\w+))?", SCRIPT.read_text())
    assert len(named) > 15
    for path, function in named:
        text = (ROOT / path).read_text()
        assert not function or f"\ndef {function}(" in text, f"{path}::{function}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_it_ends_in_one_line(tmp_path):
    found = run(tmp_path / "out", PYTHON=sys.executable)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: torch ")
    assert line.endswith("finds no CUDA device")
    assert (tmp_path / "out" / "summary.txt").read_text().splitlines() == [line]


def test_a_package_that_is_missing_ends_it_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pytest_benchmark'] = None\n")
    # The script sets PYTHONPATH anew: an interpreter that puts its own folder in front stands for a bare machine.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    found = run(tmp_path / "out", PYTHON=str(python))
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert "pytest_benchmark" in line
    assert "python -m bench.carry" in line


def test_without_a_folder_it_says_how_it_is_called():
    found = run(None)
    assert found.returncode == 2
    assert found.stderr.splitlines() == ["usage: bash bench/gpu.sh OUT"]
