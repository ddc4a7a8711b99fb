"""The report on a machine's kernels: a line an op, and an exit code that scripts can read."""

import time

import pytest

from concord.kernels.native.build import Native, native_library
from concord.kernels.ops import OPS
from concord.train import doctor
from concord.train.checks import children as judged
from concord.train.command import run_command
from tests.train.small_runs import refused


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
    assert printed.splitlines()[-1] == "12 of 14 ops passed, in 14 cases"


@pytest.mark.usefixtures("on_cpu")
def test_some_ops_alone_may_be_judged_case_by_case(children, capsys):
    calls = children()
    assert run_command(doctor.main, ["--ops", "attention", "gather", "--cases", "--model", "bert-base"]) == 0
    printed = capsys.readouterr().out
    assert sorted(calls.read_text().split()) == ["attention", "gather"]
    assert printed.splitlines()[-1] == "2 of 2 ops passed, in 2 cases"
    assert "    attention: some " in printed


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_cases_are_told_as_they_are_judged_and_a_failed_one_with_what_its_process_said(children, capsys):
    children(bias_gelu="wrong", gather="hang", embedding="exit")
    ops = ["attention", "bias_gelu", "gather", "embedding"]
    began = time.monotonic()
    assert run_command(doctor.main, ["--cases", "--seconds", "1.5", "--jobs", "4", "--ops", *ops]) == 1
    assert time.monotonic() - began < 30  # where the hanging one would take 60
    cases, _, report = capsys.readouterr().out.partition("\n\n")
    assert "    GELU: some " in cases
    assert "        words of the compiler on bias_gelu" in cases
    assert "        words of the compiler on gather" in cases
    assert "        RuntimeError: no such thing" in cases
    assert "its check failed here, it did not end within 1.5 s" in report
    assert "words" not in report


def test_what_a_process_said_at_length_keeps_both_ends_and_the_place_where_it_goes_on(tmp_path):
    with (tmp_path / "errors").open("w+b") as errors:
        errors.write(b"earlier" + b"first" + b"." * 10_000 + b"last")
        errors.flush()
        said = judged._part(errors, 7, 7 + 5 + 10_000 + 4)
        assert errors.tell() == errors.seek(0, 2)
    assert said.startswith("first...")
    assert said.endswith("...last")
    assert "\n[...]\n" in said
    assert len(said) < 5000


@pytest.mark.slow
@pytest.mark.skipif(bool(native_library().missing), reason=native_library().missing or "it is there")
def test_native_kernels_have_a_line_each_where_triton_is_not_interpreted(capsys, monkeypatch):
    monkeypatch.setattr("concord.train.runs.checkup.interpreted", lambda: False)
    assert run_command(doctor.main, ["--device", "cpu", "--jobs", "1", "--longest", "40"]) == 0
    printed = capsys.readouterr().out
    native = [entry.title for entry in OPS.values() if entry.native]
    assert "kernels    native (C++ for " in printed
    for title in native:
        assert next(line for line in printed.splitlines() if line.startswith(title)).split("  passed  error ")[1]
    assert printed.splitlines()[-1].startswith(f"{len(native)} of {len(native)} ops passed")


def test_without_kernels_there_is_nothing_to_judge(children, capsys, monkeypatch):
    calls = children()
    monkeypatch.setattr("concord.train.runs.checkup.interpreted", lambda: False)
    monkeypatch.setattr("concord.train.steps.precision.native_library", lambda: Native(missing="no compiler"))
    assert run_command(doctor.main, ["--device", "cpu"]) == 0
    assert "nothing to judge; TRITON_INTERPRET=1" in capsys.readouterr().out
    assert not calls.read_text()


def test_what_cannot_be_judged_is_bad_input(children, capsys, tmp_path):
    children(embedding="no device")
    on_cpu = ["--device", "cpu"]
    assert "nothing can be judged on this device: " in refused(capsys, doctor.main, [*on_cpu, "--jobs", "1"])
    assert "expected one of minilm" in refused(capsys, doctor.main, [*on_cpu, "--model", str(tmp_path)])
    assert "wrong products in bf16" in refused(capsys, doctor.main, [*on_cpu, "--amp", "bf16"])
