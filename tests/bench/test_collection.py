"""Every benchmark can be collected: its imports are among the packages that the benchmarks' extra names."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.conftest import pytest_collection_modifyitems
from bench.step_cases import CASES, COMPILED, FIRST_CASES, PEERS, contests

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_the_benchmarks_are_collected_without_an_error():
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", "--collect-only", "-q"]
    # Benchmarks refuse to run in a worker of pytest -n, as which the child would take itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    found = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    for module in (ROOT / "bench").glob("test_*.py"):
        assert f"bench/{module.name}::" in found.stdout


def test_kernels_that_torch_compile_makes_come_last():
    items = [SimpleNamespace(name=name) for name in ("gelu[torch.compile]", "gelu[concord]", "linear[torch]")]
    pytest_collection_modifyitems(items)
    assert [item.name for item in items] == ["gelu[concord]", "linear[torch]", "gelu[torch.compile]"]


def test_every_contest_of_a_training_step_comes_once_and_the_compiled_ones_before_the_lesser_cases():
    found = contests()
    assert len(found) == len(set(found))
    assert {(case, name) for case in CASES for name in PEERS} <= set(found)
    last_of_the_first = max(found.index((case, name)) for case in FIRST_CASES for name in PEERS)
    first_compiled = min(index for index, (_, name) in enumerate(found) if name in COMPILED)
    lesser = found.index((CASES[len(FIRST_CASES)], "concord"))
    assert last_of_the_first < first_compiled < lesser
