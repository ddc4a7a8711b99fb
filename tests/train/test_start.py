"""Help, versions and refused flags come before torch is imported, which takes over a second."""

import subprocess
import sys
from pathlib import Path

import pytest

from concord.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "triton", "numpy", "tokenizers", "rich", "matplotlib")
CODE = """
import runpy, sys
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit as end:
    code = end.code or 0
print("ended with", code, *(name for name in %r if name in sys.modules))
"""
TYPED = [name for name in COMMANDS if name != "recipes"]
MODULES = {name: COMMANDS[name][0].removeprefix("concord.") for name in TYPED}


def start(*words):
    """The exit code of `python -m WORDS`, the heavy packages that it imports, and what it says on stderr."""
    command = [sys.executable, "-c", CODE % (HEAVY,), *map(str, words)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    code, *imported = ended.stdout.splitlines()[-1].removeprefix("ended with ").split()
    return int(code), imported, ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        *([MODULES[name], "--help"] for name in TYPED),
        *(["concord.cli", name, "--help"] for name in TYPED),
        ["train.run", "--help-all"],
        ["train.run", "--recipes"],
        ["concord.cli", "recipes"],
        ["concord.cli", "--help"],
        ["concord.cli", "--version"],
    ],
    ids=" ".join,
)
def test_what_only_tells_imports_nothing_heavy(words):
    assert start(*words) == (0, [], "")


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("installed", [False, True], ids=["checkout", "installed"])
def test_a_mistyped_flag_is_refused_before_anything_heavy_is_imported(installed, name):
    required = {"evaluate": ["runs/x"], "report": ["runs/x"], "reproduce": ["paper"], "demo": ["--out", "x"]}
    required |= {"data": ["x"], "compare": ["runs/x", "runs/y"]}
    required["export"] = ["runs/x", "--format", "onnx", "--output", "x"]
    required["predict"] = ["runs/x", "--task", "sst", "--input", "x", "--output", "y"]
    code, imported, said = start(
        *(["concord.cli", name] if installed else [MODULES[name]]), *required.get(name, []), "--bogus", "1"
    )
    assert (code, imported) == (2, [])
    assert said.startswith("error: unknown argument --bogus")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.run", "--lr", "1"], "error: unknown argument --lr: here it is --learning-rate\n"),
        (["train.run", "--surgery", "pcgard"], "did you mean 'pcgrad'?\n"),
        (["train.run", "--kernels", "cuda"], "error: --kernels cuda: expected one of auto, native, torch, triton\n"),
        (["train.run", "--resume", "no-such-run"], "error: no-such-run: not the folder of a run"),
        (["train.pretrain", "--epochs", "0"], "error: --epochs 0: expected at least 1\n"),
        (["train.reproduce", "no-such-paper"], "error: paper no-such-paper: expected one of"),
        (["train.doctor", "--ops", "bogus"], "invalid choice: 'bogus'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_so_is_a_value_that_is_not_allowed(words, said):
    code, imported, error = start(*words)
    assert (code, imported) == (2, [])
    assert said in error


def test_a_command_whose_flags_are_good_imports_what_it_needs(tmp_path):
    code, imported, _ = start("train.demo", "--out", tmp_path / "data")
    assert code == 0
    assert "torch" in imported
