"""Every script under examples/ runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = [str(tmp_path)] if "[FOLDER]" in script.read_text(encoding="utf-8") else []
    found = subprocess.run(
        [sys.executable, str(script), *folder], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout


@pytest.mark.parametrize("document", ["README.md", "docs/loops.md"])
def test_the_documented_loop_is_the_examples_and_runs(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.search(r"^    import torch\n(?:    .*\n|\n)+", text, re.M)[0]
    found = "\n".join(line[4:] for line in found.splitlines())
    loop = (ROOT / "examples" / "pcgrad_in_a_loop.py").read_text(encoding="utf-8")
    for line in ("optimizer.pc_backward(losses)", "optimizer = PCGrad(torch.optim.Adam(["):
        assert line in loop
        assert line in found
    left = {}
    exec(compile(found, document, "exec"), left)
    assert sum(left["losses"]) < 1.5  # of targets of mean square 1 each, learned from 32 inputs
