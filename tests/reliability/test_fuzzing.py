"""Damaged and hostile input: each reader, and each whole command, takes it or refuses it in one bounded line."""

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reliability.fuzz import judge
from tests.reliability.fuzzed_readers import readers

EXAMPLES = 120  # for each reader, of the same seed each time; `python -m tests.reliability.fuzz` tries far more


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_whatever_a_file_holds_it_is_taken_or_refused_in_one_bounded_line(reader, tmp_path):
    @settings(
        max_examples=max(20, int(EXAMPLES * reader.weight)),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_all(data):
        found = data.draw(reader.inputs)
        assert judge(reader, tmp_path, found) in ("taken", "refused")

    try_all()


@pytest.mark.long
def test_whole_commands_end_well_whatever_they_are_asked_for_and_read():
    command = [sys.executable, "-m", "tests.reliability.fuzz", "--inputs", "0", "--commands", "30"]
    # Children are forked, which threads of OpenMP do not survive.
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout.decode()[-3000:] + done.stderr.decode()[-3000:]
    assert b"; 0 kinds of faults; " in done.stdout
