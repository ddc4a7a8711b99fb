"""Pack what a bare GPU machine lacks into .carry: python -m bench.carry [--data DIR] [--lines N].

`.carry/minilm` holds the bundled weights in fp16, with configuration and tokenizer; `.carry/data` the first N lines of
each file of the data set; `.carry/site` the small Python packages that the benchmarks import; `.carry/commit` names the
commit, since a history need not travel. With the checkout they are less than 64 MiB, and `bench/gpu.sh` finds them
there.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from concord.bert.errors import InputError
from concord.bert.models import minilm_directory
from concord.bert.names import WEIGHTS_FILE
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.outputs.provenance import commit

FOLDER = Path(__file__).resolve().parent.parent / ".carry"
_PACKAGES = ("torchjd", "rich", "markdown-it-py", "mdurl", "pygments", "nvidia-ml-py", "pytest-benchmark", "py-cpuinfo")


def carry_weights(target: Path) -> None:
    """Write the bundled model to `target`, its weights in fp16."""
    source = minilm_directory()
    target.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    weights = load_file(source / WEIGHTS_FILE)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(halves, target / WEIGHTS_FILE, metadata={"format": "pt"})


def carry_data(source: Path, target: Path, lines: int) -> None:
    """Copy a data set in the course layout, its files cut after `lines` lines."""
    paths = sorted(source.glob("*.csv"))
    if not paths:
        raise InputError(f"--data {source}: no .csv file there, expected a folder in the course layout")
    target.mkdir(parents=True)
    for path in paths:
        with path.open(encoding="utf-8", newline="") as whole:
            kept = [line for _, line in zip(range(lines), whole, strict=False)]
        (target / path.name).write_text("".join(kept), encoding="utf-8", newline="")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the folder anew."""
    parser = OneLineParser(prog="python -m bench.carry", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder in the course layout (default: none, and the generated data serves)"
    )
    parser.add_argument("--lines", type=int, default=10_000, help="of each file that are carried (default 10000)")
    given = parser.parse(arguments)
    shutil.rmtree(FOLDER, ignore_errors=True)
    carry_weights(FOLDER / "minilm")
    if given.data:
        carry_data(given.data, FOLDER / "data", given.lines)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        str(FOLDER / "site"),
    ]
    subprocess.run([*command, *_PACKAGES], check=True)
    if found := commit():
        (FOLDER / "commit").write_text(found + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{FOLDER}: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(run_command(main))
