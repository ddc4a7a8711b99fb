"""Whether this machine has what `bench/gpu.sh` needs: python -m bench.gpu_environment.

Prints the device's record, the versions and the commit as JSON. Where something is missing it says so in one line, and
exits with 2.
"""

import importlib
import json
import sys
from typing import Any

_PACKAGES = ("pytest", "pytest_benchmark", "torch")
# Between them they import whatever the calls do.
_MODULES = (
    "bench.captured_steps",
    "bench.conftest",
    "bench.profile_steps",
    "bench.step_cases",
    "concord.kernels.checks.child",
    "concord.train.runs.begin",
    "concord.train.runs.checkup",
)


def main() -> int:
    """Print the record; 0, or 2 where something is missing."""
    try:
        for name in _PACKAGES:
            importlib.import_module(name)
        import torch

        if not torch.cuda.is_available():
            return _missing(f"torch {torch.__version__} finds no CUDA device")
        for name in _MODULES:
            importlib.import_module(name)
        print(json.dumps(_record(), indent=1))
    except ImportError as error:
        return _missing(f"{error}; python -m bench.carry packs what a bare machine lacks")
    return 0


def _record() -> dict[str, Any]:
    """What results are worth nothing without. ImportError where the bundled model is not there."""
    import torch

    from bench.measure import device_record
    from concord.bert.errors import InputError
    from concord.bert.models import minilm_directory
    from concord.train.outputs.provenance import commit, versions

    try:
        minilm_directory()
    except InputError as error:
        raise ImportError(str(error)) from None
    return {"device": device_record(torch.device("cuda")), "versions": versions(), "commit": commit()}


def _missing(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
