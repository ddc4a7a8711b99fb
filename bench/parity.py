"""Run the tests that benchmarks' ratios rest on, several modules at once: python -m bench.parity --out DIR.

Each module runs in a process of its own, so that its kernels are compiled while others' are, and that a fault on the
device is no other module's; the longest ones are divided, and begin first. Every process leaves a JUnit file and a log
in DIR, of which `read_parity` makes the counts that benchmarks take with their results (pytest bench/ --parity DIR).
"""

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from concord.train.command import run_command
from concord.train.flags import OneLineParser

ROOT = Path(__file__).resolve().parent.parent
Counts = dict[str, int]
"""passed, failed, skipped -> how many tests."""


def _each_of(*words: str) -> tuple[str, ...]:
    """Expressions that take the tests with the first word, with the second and not the first, and so on, and the rest.

    Between them they take each test once, whatever its name.
    """
    without = [f"not {word}" for word in words]
    return tuple(" and ".join([*head, *without[:index]]) for index, head in enumerate([*([w] for w in words), []]))


# pytest numbers the dtypes of a parameter, and the settings.
_BY_DTYPE = _each_of("dtype0", "dtype1")
_BY_MODE_AND_PRECISION = tuple(
    f"{mode} and {dtype}" for mode in ("default", "not default") for dtype in ("bf16", "not bf16")
)
_DIVIDED = {
    "tests/bench/test_compiled_peers.py": _BY_MODE_AND_PRECISION,
    "tests/kernels/test_attention_kernels.py": _BY_DTYPE,
    "tests/kernels/test_embedding.py": _BY_DTYPE,
    "tests/kernels/test_surgery.py": _each_of("pcgrad", "gradvac"),
    "tests/kernels/test_task_products.py": _BY_DTYPE,
    "tests/train/test_graphs.py": _each_of("more0", "more1", "more2", "more3", "more4"),
}
# The longest first: what begins last should be over soon.
MODULES = (
    "tests/kernels/test_attention_kernels.py",
    "tests/kernels/test_surgery.py",
    "tests/bench/test_compiled_peers.py",
    "tests/bench/test_peers.py",
    "tests/bench/test_torchjd_peer.py",
    "tests/bench/test_loop_peers.py",
    "tests/train/test_graphs.py",
    "tests/bert/test_task_gradients.py",
    "tests/kernels/test_task_products.py",
    "tests/kernels/test_linear_cross_entropy.py",
    "tests/kernels/test_embedding.py",
    "tests/kernels/test_layer_norm.py",
    "tests/kernels/test_gram.py",
    "tests/kernels/test_multi_tensor.py",
    "tests/kernels/test_adamw.py",
    "tests/kernels/test_gelu.py",
    "tests/train/test_optimizer.py",
    "tests/train/test_resting.py",
    "tests/train/test_device_batches.py",
    "tests/kernels/test_gather.py",
    "tests/kernels/test_dropout.py",
    "tests/kernels/test_dispatch.py",
    "tests/bench/test_encoders.py",
    "tests/bert/test_tokenizer.py",
)


@dataclass(frozen=True)
class Part:
    """The tests of `module` that pytest's expression `chosen` takes (all where it is empty), part `number` of `of`."""

    module: str
    chosen: str = ""
    number: int = 1
    of: int = 1

    @property
    def stem(self) -> str:
        """What its files are called: the module with dots, and which part of it."""
        dotted = self.module.removesuffix(".py").replace("/", ".")
        return dotted if self.of == 1 else f"{dotted}-{self.number}of{self.of}"


def parts_of(modules: Sequence[str]) -> list[Part]:
    """Every part of `modules`, in their order."""
    parts = []
    for module in modules:
        chosen = _DIVIDED.get(module, ("",))
        parts += [Part(module, one, number, len(chosen)) for number, one in enumerate(chosen, start=1)]
    return parts


def run_parts(parts: Sequence[Part], folder: Path, jobs: int, seconds: float) -> dict[Part, float | None]:
    """Run each part with pytest, `jobs` at once: part -> the seconds that it took, or None where it was cut off.

    folder: for a JUnit file and a log of each; seconds: after which what still runs is ended and nothing more begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds

    def run(part: Part) -> float | None:
        report, began = folder / f"{part.stem}.xml", time.monotonic()
        report.unlink(missing_ok=True)
        if end - began <= 0:
            return None
        chosen = ["-k", part.chosen] if part.chosen else []
        command = [sys.executable, "-m", "pytest", part.module, *chosen, "-q", "-p", "no:cacheprovider"]
        with (folder / f"{part.stem}.log").open("wb") as log:
            try:
                subprocess.run(
                    [*command, f"--junitxml={report}"],
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=end - began,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return None
        return time.monotonic() - began

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(parts, pool.map(run, parts), strict=True))


def read_parity(path: Path) -> dict[str, Counts]:
    """Test module -> its counts, from a JUnit file or a folder of them.

    A module has none where a file of its parts is missing or not complete.
    """
    found: dict[str, Counts] = {}
    parts: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(path.glob("*.xml")) if path.is_dir() else [path]:
        parts[re.sub(r"-\d+of\d+$", "", file.stem)].append(file)
    for files in parts.values():
        division = re.search(r"-\d+of(\d+)$", files[0].stem)
        if division and len(files) < int(division[1]):
            continue
        try:
            tests = [test for file in files for test in ElementTree.parse(file).iter("testcase")]
        except (OSError, ElementTree.ParseError):
            continue
        for test in tests:
            module = test.get("classname", "").replace(".", "/") + ".py"
            tags = {child.tag for child in test}
            outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
            found.setdefault(module, {"passed": 0, "failed": 0, "skipped": 0})[outcome] += 1
    return found


def describe(took: dict[Part, float | None], counted: dict[str, Counts]) -> list[str]:
    """A line for each module that did not pass, and one for all."""
    lines, passed = [], 0
    for module in dict.fromkeys(part.module for part in took):
        own = {part: seconds for part, seconds in took.items() if part.module == module}
        counts = counted.get(module, {"passed": 0, "failed": 0, "skipped": 0})
        cut = [part.stem for part, seconds in own.items() if seconds is None]
        passed += not cut and counts["passed"] > 0 and not counts["failed"]
        if cut:
            lines.append(f"{module}: cut off ({', '.join(cut)})")
        elif counts["failed"]:
            lines.append(f"{module}: {counts['failed']} of {sum(counts.values())} tests failed")
        elif not counts["passed"]:
            lines.append(f"{module}: no test passed, see {next(iter(own)).stem}.log")
    slowest = max(took, key=lambda part: took[part] or 0.0)
    modules = len({part.module for part in took})
    lines.append(f"{passed} of {modules} modules passed; the slowest took {took[slowest] or 0:.0f} s: {slowest.stem}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them and say what came of it; 0, or 1 where a module has not passed. InputError for bad flags."""
    parser = OneLineParser(prog="python -m bench.parity", description=__doc__.splitlines()[0])
    parser.add_argument(
        "modules",
        nargs="*",
        default=MODULES,
        help="test modules (default: all that ratios rest on, and of what their ops are made)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JUnit files and logs")
    parser.add_argument("--jobs", type=int, default=8, help="processes at once (default 8)")
    parser.add_argument(
        "--seconds", type=float, default=3600.0, help="after which what still runs is cut off (default 3600)"
    )
    given = parser.parse(arguments)
    took = run_parts(parts_of(given.modules), given.out, given.jobs, given.seconds)
    lines = describe(took, read_parity(given.out))
    print("\n".join(lines))
    return int(len(lines) > 1)


if __name__ == "__main__":
    sys.exit(run_command(main))
