"""The default run of two trees: what is read of a run, and what a failed one says."""

import pytest

from bench.default_run import run_once
from concord.bert.errors import InputError

STAND_IN = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
sum(range(10**7))
(out / "summary.json").write_text(json.dumps({"dev": {"sst": {"accuracy": len(sys.argv)}}}))
"""


def tree(folder, code):
    (folder / "train").mkdir()
    (folder / "train" / "run.py").write_text(code)
    return folder


def test_a_run_is_timed_by_the_clock_and_by_what_its_processes_computed(tmp_path):
    found = run_once(tree(tmp_path, STAND_IN), tmp_path / "out", ["--max-steps", "3"])
    assert 0.01 < found.computed <= found.wall + 0.05
    assert found.dev == {"sst": {"accuracy": 8}}


def test_a_run_that_fails_is_named_with_its_last_line(tmp_path):
    with pytest.raises(InputError, match=r"ended with 3: error: no data"):
        run_once(
            tree(tmp_path, "import sys\nprint('error: no data', file=sys.stderr)\nsys.exit(3)"), tmp_path / "o", []
        )
