"""The default run beside that of an earlier commit: python -m bench.default_run --against REV [--rounds N].

Each round runs `python -m train.run --amp --surgery pcgrad` of both trees, one after the other, whole processes from
start to end. Their time is taken by the clock, and as the time that their processes computed, which does not count what
else the machine did. Leaves a file of results as the other benchmarks do.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.measure import device_record, results_file
from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.kernels.measure import summarise
from concord.train.command import run_command
from concord.train.flags import OneLineParser

ROOT = Path(__file__).resolve().parent.parent
_DEFAULT = ("-m", "train.run", "--amp", "--surgery", "pcgrad")


@dataclass(frozen=True)
class Run:
    """One run: seconds by the clock and of its processes, and the dev metrics of its best model by task."""

    wall: float
    computed: float
    dev: dict[str, dict[str, float]]


def run_once(tree: Path, folder: Path, more: Sequence[str]) -> Run:
    """A run of the checkout `tree` that leaves its results in `folder`; InputError where it fails."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *_DEFAULT, "--out", str(folder), *more],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"the run of {tree} ended with {done.returncode}: {last[:200]}")
    computed = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(wall, computed, json.loads((folder / "summary.json").read_text(encoding="utf-8"))["dev"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the file of results; InputError where a run or the revision cannot be had."""
    parser = OneLineParser(prog="python -m bench.default_run", description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="REV", help="the commit whose run is the other")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each (default 2)")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    parser.add_argument("--max-steps", type=int, default=0, help="end runs early; 0 for whole ones")
    given = parser.parse(arguments)
    more = ["--max-steps", str(given.max_steps)] if given.max_steps else []
    command = f"python -m bench.default_run --against {given.against} --rounds {given.rounds} {' '.join(more)}".strip()
    path, head = results_file(given.results, command, device_record(torch.device("cpu")), {})
    runs: dict[str, list[Run]] = {"concord": [], given.against: []}
    with tempfile.TemporaryDirectory() as temporary, _checked_out(given.against, Path(temporary) / "tree") as tree:
        for number in range(given.rounds):
            for name, place in (("concord", ROOT), (given.against, tree)):
                runs[name].append(run_once(place, Path(temporary) / f"{name}-{number}", more))
                print(name, runs[name][-1], flush=True)
    rows = [_row(name, found, bool(more)) for name, found in runs.items()]
    with replacing(path) as beside:
        beside.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    ours, theirs = (row["seconds"]["median"] for row in rows)
    print(f"{ours / theirs:.2f} of the time of {given.against}; {path}")


def _row(name: str, runs: Sequence[Run], cut: bool) -> dict[str, object]:
    wall, computed = (summarise([getattr(run, kind) for run in runs]) for kind in ("wall", "computed"))
    return {
        "group": "other",
        "name": "the default run" + (", a few steps of it" if cut else ""),
        "case": {},
        "peer": name,
        "seconds": asdict(wall),
        "floor_seconds": None,
        "parity": [],
        "extra": {"thread_seconds": asdict(computed), "dev": runs[-1].dev},
    }


@contextmanager
def _checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A worktree of the revision, while it is needed."""
    _git("worktree", "add", "--detach", str(folder), revision)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"git {arguments[0]}: {reason[:200]}")


if __name__ == "__main__":
    sys.exit(run_command(main))
