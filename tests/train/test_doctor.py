"""The report on a machine's kernels: a line an op, and an exit code that scripts can read."""

import pytest

from kernels.dispatch import OPS
from tests.train.small_runs import refused
from train import doctor
from train.command import run_command


@pytest.mark.usefixtures("on_cpu")
def test_every_op_has_a_line_and_a_failed_one_says_why(children, capsys):
    children(bias_gelu="wrong", embedding="crash")
    assert run_command(doctor.main, ["--jobs", "3"]) == 1
    printed = capsys.readouterr().out
    for word in ("device", "machine", "versions", "commit", "precision", "kernels", "shapes"):
        assert f"\n{word} " in f"\n{printed}"
    lines = {op: next(line for line in printed.splitlines() if line.startswith(OPS[op].title)) for op in OPS}
    assert "FAILED  its check failed here, error 0.31, allowed 0.03" in lines["bias_gelu"]
    assert "FAILED  its check failed here, it ended its process with SIGABRT" in lines["embedding"]
    for op, line in lines.items():
        assert ("passed  error 1.0e-07 of 1.0e-06" in line) == (op not in ("bias_gelu", "embedding"))
    assert printed.splitlines()[-1] == "11 of 13 ops passed, in 13 cases"


@pytest.mark.usefixtures("on_cpu")
def test_some_ops_alone_may_be_judged_case_by_case(children, capsys):
    calls = children()
    assert run_command(doctor.main, ["--ops", "attention", "gather", "--cases", "--model", "bert-base"]) == 0
    printed = capsys.readouterr().out
    assert sorted(calls.read_text().split()) == ["attention", "gather"]
    assert printed.splitlines()[-1] == "2 of 2 ops passed, in 2 cases"
    assert "    some " in printed


def test_without_kernels_there_is_nothing_to_judge(children, capsys, monkeypatch):
    calls = children()
    monkeypatch.setattr("train.doctor.interpreted", lambda: False)
    assert run_command(doctor.main, ["--device", "cpu"]) == 0
    assert "nothing to judge; TRITON_INTERPRET=1" in capsys.readouterr().out
    assert not calls.read_text()


def test_what_cannot_be_judged_is_bad_input(children, capsys, tmp_path):
    children(embedding="no device")
    on_cpu = ["--device", "cpu"]
    assert "nothing can be judged on this device: " in refused(capsys, doctor.main, [*on_cpu, "--jobs", "1"])
    assert "expected one of minilm" in refused(capsys, doctor.main, [*on_cpu, "--model", str(tmp_path)])
    assert "wrong products in bf16" in refused(capsys, doctor.main, [*on_cpu, "--amp", "bf16"])
