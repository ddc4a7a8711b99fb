"""Every benchmark can be collected: its imports are among the packages that the benchmarks' extra names."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_benchmarks_are_collected_without_an_error():
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", "--collect-only", "-q"]
    found = subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    for module in (ROOT / "bench").glob("test_*.py"):
        assert f"bench/{module.name}::" in found.stdout
