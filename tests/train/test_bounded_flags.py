"""Numbers of commands that take no settings: what lies outside of its bounds is refused before torch is loaded."""

import pytest

from concord.train import doctor, evaluate, export
from tests.train.small_runs import refused

MOST = 2**31 - 1


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (evaluate, ["run", "--dev-examples", "-3"], f"--dev-examples -3: expected a number from 0 to {MOST}"),
        (evaluate, ["run", "--dev-examples", 2**31], f"--dev-examples {2**31}: expected a number from 0 to {MOST}"),
        (
            export,
            ["run", "--format", "onnx", "--output", "out", "--dev-examples", "-1"],
            f"--dev-examples -1: expected a number from 0 to {MOST}",
        ),
        (doctor, ["--jobs", "-2"], "--jobs -2: expected a number from 1 to"),
        (doctor, ["--jobs", "0"], "--jobs 0: expected a number from 1 to"),
        (doctor, ["--tasks", "0"], "--tasks 0: expected a number from 1 to"),
        (doctor, ["--longest", "0"], "--longest 0: expected a number from 1 to"),
        (doctor, ["--seconds", "nan"], "--seconds nan: expected a number from 0.001 to"),
        (doctor, ["--seconds", "-1"], "--seconds -1.0: expected a number from 0.001 to"),
    ],
)
def test_a_number_out_of_bounds_is_refused_in_a_line(capsys, command, arguments, said):
    assert refused(capsys, command.main, arguments).startswith(f"error: {said}")


@pytest.mark.parametrize(("flag", "value"), [("--data", "nonsense"), ("--dev-examples", "3")])
def test_an_export_that_reads_no_dev_sets_refuses_what_is_said_of_them(capsys, flag, value):
    said = refused(capsys, export.main, ["run", "--format", "transformers", "--output", "out", flag, value])
    assert said == f"error: {flag}: --format transformers reads no dev sets, expected --format onnx\n"
