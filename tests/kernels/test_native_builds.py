"""The native kernels' tests with the library built for other instructions, and with the compiler's sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from concord.kernels.native import build
from concord.kernels.native.build import native_library

TESTS = "tests/kernels/test_native.py"
ROOT = Path(__file__).parents[2]
# With -O3 the compiler takes many minutes.
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1")
# What a sanitizer says before it ends the process would be lost if pytest captured it: hence -s.
# The tests, after the library has been built with more flags for the instructions that the process should take.
CHILD = """
import sys
import pytest
from concord.kernels.native import build
build._FLAGS, build._LIMIT = (*build._FLAGS, *sys.argv[2:]), 1200
assert not build.native_library().missing, build.native_library().missing
assert build.instruction_set() == sys.argv[1], build.instruction_set()
sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-n", "0", "-m", "not slow", {tests!r}]))
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(native_library().missing), reason=native_library().missing or "it is there"),
]


def run_tests(tmp_path, instructions, *flags, **environment):
    """Run the tests in a process of its own, whose library is built with `flags` too."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path), **environment}
    command = [sys.executable, "-c", CHILD.format(tests=TESTS), instructions, *flags]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0 and " passed" in done.stdout, (done.stdout + done.stderr)[-4000:]
    assert "skipped" not in done.stdout


def runtime(name):
    """The path of a library of the compiler's; skips where it has none."""
    asked = [build._compiler(), f"-print-file-name={name}"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        pytest.skip(f"the compiler has no {name}")
    return path


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="this processor has no AVX2")
def test_the_library_for_avx2_passes_the_same_tests(tmp_path):
    run_tests(tmp_path, "AVX2", ATEN_CPU_CAPABILITY="avx2")


def test_no_access_is_out_of_bounds_and_nothing_is_undefined(tmp_path):
    # The interpreter leaves memory behind at its end: leaks are not looked for.
    options = "detect_leaks=0:detect_odr_violation=0"
    preload = f"{runtime('libasan.so')} {runtime('libubsan.so')}"
    run_tests(tmp_path, build.instruction_set(), *SANITIZED, LD_PRELOAD=preload, ASAN_OPTIONS=options)
