"""What an installation brings: the wheel's rooms, and nothing that other packages could take for theirs."""

import subprocess
import sys
import zipfile
from pathlib import Path

from concord import kernels

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_the_three_rooms_and_nothing_else(tmp_path):
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
    assert {name.split("/")[0] for name in names} == {"kernels", "bert", "train"}
    for pattern in ("kernels/*.py", "bert/*.py", "train/**/*.py", "train/**/*.toml"):
        for source in ROOT.glob(pattern):
            assert source.relative_to(ROOT).as_posix() in names
    assert not wheel.name.startswith("concord_bert-0"), "transformers would take the package kernels for its own"


def test_the_room_kernels_does_not_pass_for_another_package_of_that_name():
    assert not hasattr(kernels, "__version__")


def test_training_imports_neither_transformers_nor_sentence_transformers():
    code = "import sys, concord.train.run, concord.train.evaluate, concord.train.predict; print([m for m in sys.modules if 'transformers' in m])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
