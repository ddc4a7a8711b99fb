"""What a number is worth nothing without: the machine, the versions and the commit that it comes from."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

from concord.bert.files import PROJECT
from concord.kernels.products import PRODUCT_VARIABLES
from concord.train.steps.precision import Precision, processor

_PACKAGES = ("torch", "triton", "numpy", "tokenizers", "safetensors")

# Variables by which torch and its libraries choose among products whose bits differ.
_VARIABLES = (*PRODUCT_VARIABLES, "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "TRITON_INTERPRET")
_SOURCE = ("concord", "kernels", "bert", "train", "bench", "setup.py")
_WITHOUT_BITS = ("tokenizers", "safetensors")  # what they give is compared by itself


def machine(precision: Precision) -> dict[str, str]:
    """What a run's bits depend on beside its settings, data and kernels: each by its name, in words."""
    on_cpu = precision.device.type == "cpu"
    found = {
        "precision": precision.name,
        "device": processor() if on_cpu else precision.device_name,
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **{name: version for name, version in versions().items() if name not in _WITHOUT_BITS},
        "commit": str(commit()),
        "float32 products": torch.get_float32_matmul_precision(),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
    }
    return found | {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What two machines differ in, a phrase each: its name, and how it was and is."""
    names = dict.fromkeys((*before, *now))
    return [
        f"{name} was {before.get(name, 'not set')} and is {now.get(name, 'not set')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def versions() -> dict[str, str]:
    """Python's version and those of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str | None:
    """The commit of the source, with "+changes" where what computes or measures differs from it, or is not in it.

    Outside a checkout of its own, what CONCORD_COMMIT says: who copies the source without its history may tell.
    Otherwise None, also where the package is installed somewhere in another project's repository.
    """

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == PROJECT:
            changed = git("status", "--porcelain", "--untracked-files=all", "--", *_SOURCE)
            return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, no repository, or one without a commit
    return os.environ.get("CONCORD_COMMIT")
