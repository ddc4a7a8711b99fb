"""What the system does not give: descriptors, and room to map a file. It is one line, and exit code 2."""

import json
import os
import resource
import struct
import subprocess
import sys

import pytest

from tests.train.small_runs import command, write_course_data

READ = """
import resource, sys
from pathlib import Path
from concord.bert.tensor_files import read_tensors
from concord.train.command import run_command
has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + (100 << 20),) * 2)
sys.exit(run_command(lambda arguments: read_tensors(Path(sys.argv[1]))))
"""


def limited(arguments, limits):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: [resource.setrlimit(*limit) for limit in limits],
    )


@pytest.mark.long
@pytest.mark.parametrize("descriptors", [5, 7])
def test_too_few_descriptors_end_a_run_in_one_line(tmp_path, descriptors):
    data = write_course_data(tmp_path / "data")
    arguments = ["-m", "train.run", *command(data, tmp_path / "run", "--max-steps", "1")]
    done = limited(arguments, [(resource.RLIMIT_NOFILE, (descriptors, descriptors))])
    assert done.returncode in (0, 2)
    assert done.stderr.count("\n") == (done.returncode == 2), done.stderr
    assert "Too many open files" in done.stderr or not done.returncode


def test_weights_that_the_system_does_not_map_are_one_line(tmp_path):
    path, size = tmp_path / "model.safetensors", 4 << 30
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    done = limited(["-c", READ, path], [])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {path}: ")
