"""What an installation brings: the wheel's rooms, and nothing that other packages could take for theirs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("run", "evaluate", "predict", "pretrain", "reproduce", "doctor", "demo")


def test_the_wheel_holds_the_three_rooms_under_one_name_and_nothing_else(tmp_path):
    # An isolated build would need a package registry; setuptools is here already.
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    copied = tmp_path / "source"
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    for name in files.stdout.splitlines():
        target = copied / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command[-1] = str(copied)
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("concord_bert-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"concord"}
    assert "concord/py.typed" in names
    for pattern in ("concord/*.py", "kernels/**/*.py", "bert/**/*.py", "train/**/*.py", "train/**/*.toml"):
        for source in ROOT.glob(pattern):
            name = source.relative_to(ROOT).as_posix()
            assert name in names or f"concord/{name}" in names, name


def test_training_imports_neither_transformers_nor_sentence_transformers():
    commands = ", ".join(f"concord.train.{name}" for name in COMMANDS)
    code = f"import sys, {commands}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [name for name in result.stdout.split() if "transformers" in name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_typed_in_a_checkout_imports_no_second_copy_of_a_room(command):
    code = (
        f"import runpy, sys; sys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('train.{command}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('modules:', *sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    modules = found.splitlines()[-1].removeprefix("modules:").split()
    assert {name for name in modules if name.split(".")[0] in ("kernels", "bert", "train", "bench")} == {"train"}
    assert "concord.train.command" in modules
