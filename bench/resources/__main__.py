"""Compile every kernel ahead of time, with no GPU, and judge what it takes: python -m bench.resources [--all].

Training steps run on meta tensors, which have shapes and no memory; their launches are compiled for each target instead
of launched, so that what is judged is what a step launches. Prints one line a compiled kernel: registers a thread,
shared memory a program, spills, bytes of a thread's widest load and store, programs that a multiprocessor holds,
and the matrix instructions found. Exits with 1 where a kernel does not compile, spills, exceeds the target's shared
memory, multiplies in 16 bits without matrix instructions or with an earlier generation's beside them, holds products of
a shape that Triton is known to miscompile there, moves whole vectors by less than 16 bytes, or has products that the
assembler says are serialised (C75xx).

Without --all every model is compiled for sm_90, and MiniLM for the other targets, which meet most of the same kernels.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.resources.compiled import Resources
from bench.resources.steps import MODELS
from bench.resources.summary import write_summary
from bench.resources.targets import TARGETS
from concord.bert.errors import InputError
from concord.kernels.dispatch import interpreted
from concord.train.command import run_command
from concord.train.flags import OneLineParser

_INSTALLED = "installed"
_WHOLE_TARGET, _DEFAULT_MODEL = "sm_90", "MiniLM"


@dataclass(frozen=True)
class Job:
    """What one process compiles: the kernels of `models` for a target, with the Triton in a folder or the installed."""

    triton: str
    target: str
    models: tuple[str, ...]

    def run(self) -> tuple[list[Resources], str]:
        """What its kernels take, and why the process ended before its time ("" where it did not)."""
        environment = dict(os.environ)
        if self.triton != _INSTALLED:
            folders = (str(Path(self.triton).resolve()), environment.get("PYTHONPATH", ""))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        command = [sys.executable, "-m", "bench.resources.compiled", self.target, *self.models]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        found = [_resources(line) for line in result.stdout.splitlines()]
        if result.returncode == 0:
            return found, ""
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        return found, f"the compiling process ended with {result.returncode}: {last}"


def _resources(line: str) -> Resources:
    values = json.loads(line)
    return Resources(**{**values, "faults": tuple(values["faults"])})


def _jobs(tritons: Sequence[str], targets: Sequence[str], models: Sequence[str] | None, everything: bool) -> list[Job]:
    """The processes to run. InputError where flags contradict one another or a folder holds no Triton."""
    if everything and models:
        raise InputError("--all compiles every model: it does not go with --models")
    for folder in tritons:
        if folder != _INSTALLED and not (Path(folder) / "triton" / "__init__.py").is_file():
            raise InputError(
                f"--triton {folder}: no triton there; pip install --target {folder} --no-deps triton==3.6.0"
            )

    def models_of(target: str) -> tuple[str, ...]:
        if models:
            return tuple(models)
        return tuple(MODELS) if everything or target == _WHOLE_TARGET else (_DEFAULT_MODEL,)

    return [Job(triton, target, models_of(target)) for triton in tritons for target in targets]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0, or 1 where a kernel is at fault. InputError for bad flags and interpreted kernels."""
    parser = OneLineParser(prog="python -m bench.resources", description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every model for every target (default: for sm_90 alone)")
    parser.add_argument(
        "--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS), help="architectures (default all)"
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), help="shapes, the same for every target")
    parser.add_argument(
        "--triton",
        nargs="+",
        default=[_INSTALLED],
        metavar="DIR",
        help="folders that versions of Triton were installed into (pip install --target DIR --no-deps triton==3.6.0), "
        f"to compile with each; {_INSTALLED} (the default) is the one of this environment",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once (default one a core)")
    parser.add_argument("--summary", type=Path, metavar="DIR", help="write resources.json and resources.md to DIR")
    given = parser.parse(arguments)
    if interpreted():
        raise InputError("TRITON_INTERPRET is set, and interpreted kernels are not compiled; unset it")
    if given.jobs < 1:
        raise InputError(f"--jobs {given.jobs}: expected 1 or more")
    jobs = _jobs(given.triton, given.targets, given.models, given.all)
    every: list[Resources] = []
    ended = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for job, (found, reason) in zip(jobs, pool.map(Job.run, jobs), strict=True):
            for resources in found:
                print(resources.line(), flush=True)
            if reason:
                print(f"{job.target}, Triton {job.triton}: FAULT: {reason}", flush=True)
            every += found
            ended += bool(reason)
    at_fault = sum(bool(resources.faults) for resources in every) + ended
    print(f"{len(every)} kernels compiled, {at_fault} at fault")
    if given.summary and ended:
        print(f"no summary in {given.summary}: what was compiled is not whole")
    elif given.summary:
        words = sys.argv[1:] if arguments is None else arguments
        write_summary(given.summary, " ".join(["python -m bench.resources", *words]), every)
    return 1 if at_fault else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
