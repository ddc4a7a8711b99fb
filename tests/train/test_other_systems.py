"""Where there is neither Triton nor fcntl nor a C++ compiler, as on Windows, a run trains on the torch references."""

import json
import os
import subprocess
import sys

from tests.samples import write_small_model
from tests.train.small_runs import ADJECTIVES, THINGS, command

BLOCKED = """
import sys
sys.modules.update(triton=None, fcntl=None, resource=None)
"""
RUN = f"""{BLOCKED}
from concord.train import run
from concord.train.command import run_command
sys.exit(run_command(run.main, sys.argv[1:]))
"""
LOOP = f"""{BLOCKED}
import torch
from concord import PCGrad
trunk, heads = torch.nn.Linear(4, 4), [torch.nn.Linear(4, 1) for _ in range(2)]
optimizer = PCGrad(torch.optim.SGD(trunk.parameters(), lr=0.1))
before, features = trunk.weight.clone(), trunk(torch.ones(2, 4))
optimizer.pc_backward([head(features).mean() for head in heads])
optimizer.step()
assert not torch.equal(trunk.weight, before)
"""


def python(code, *arguments):
    environment = os.environ | {"CXX": "no-compiler"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def flags(data, folder, *more):
    words = ["the", "was", "where", "is", "i", "saw", *ADJECTIVES, *THINGS]
    model = write_small_model(folder / "model", words)
    own = ("--model", str(model), "--max-steps", "1", "--batch-size", "2", "--dev-examples", "1", "--skip-test")
    return [*command(data, folder / "run", *own), "--surgery", "pcgrad", *more]


def test_a_run_trains_there_and_says_why_it_takes_torch(data, tmp_path):
    result = python(RUN, *flags(data, tmp_path))
    assert result.returncode == 0, result.stderr
    assert "kernels    torch (reference expressions; there is no C++ compiler" in result.stdout
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [entry["applied"] for entry in map(json.loads, log) if entry["event"] == "step"] == [True]


def test_asking_for_triton_there_is_refused_in_one_line(data, tmp_path):
    result = python(RUN, *flags(data, tmp_path, "--kernels", "triton"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line == "error: --kernels triton: Triton is not installed here; --kernels auto takes the torch references"


def test_surgery_in_a_loop_of_ones_own_works_there():
    result = python(LOOP)
    assert result.returncode == 0, result.stderr
