"""The self-check before a first step: what is at fault is taken from torch and said, and is found once."""

import dataclasses
import json
import sys

import pytest
import torch

from concord.bert.errors import InputError
from concord.kernels.dispatch import takes_triton
from concord.kernels.ops import OPS
from concord.kernels.tolerances import TOLERANCES
from concord.train import run
from concord.train.checks import children as judged
from concord.train.checks import self_check
from concord.train.checks.self_check import check, environment_of, resolve_kernels
from concord.train.command import run_command
from concord.train.steps.precision import Precision
from tests.kernels.test_checks import SHAPES
from tests.samples import write_small_model
from tests.train.small_runs import ADJECTIVES, THINGS, command
from tests.train.told import Told

CPU = torch.device("cpu")
FP32 = Precision(CPU, torch.float32, False, "")


def resolved(kernels="auto", option="on"):
    told = Told()
    return resolve_kernels(kernels, option, FP32, lambda: SHAPES, told), told.lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong", "error 0.31, allowed 0.03"),
        ("hang", "it did not end within 2 s"),
        ("crash", "it ended its process with SIGABRT"),
        ("exit", "it ended its process with exit code 1: RuntimeError: no such thing"),
        ("lost", "error 0.31, allowed 0.03"),
    ],
)
@pytest.mark.usefixtures("on_cpu")
def test_an_op_at_fault_comes_from_torch_and_the_others_are_judged_all_the_same(children, monkeypatch, fault, reason):
    monkeypatch.setattr(judged, "SECONDS", 2)
    calls = children(add_layer_norm=fault)
    taken, lines = resolved()
    assert taken == f"triton; LayerNorm from torch: its check failed here, {reason}"
    assert [op for op in OPS if not takes_triton(op, CPU)] == ["add_layer_norm"]
    assert lines[0].startswith("checking")
    assert "12 cases of 12 ops, 1 failed" in lines[1]
    asked = [line.split() for line in calls.read_text().splitlines()]
    assert len(asked) == (1 if fault == "wrong" else 2)
    if fault != "wrong":
        # The second child is not asked for what the first has judged.
        assert asked[1] == asked[0][asked[0].index("add_layer_norm") + 1 :]


def test_with_kernels_triton_an_op_at_fault_is_an_error(children):
    children(attention="wrong")
    with pytest.raises(InputError) as caught:
        resolved("triton")
    assert str(caught.value) == (
        "--kernels triton: attention: its check failed here, error 0.31, allowed 0.03; --kernels auto takes it from "
        "torch, --self-check off trusts it all the same"
    )


@pytest.mark.usefixtures("on_cpu")
def test_a_verdict_is_kept_until_source_shapes_or_device_change(children, monkeypatch):
    calls = children(attention="wrong")
    first, _ = resolved()
    second, lines = resolved()
    assert first == second
    assert len(lines) == 1
    assert "kept in" in lines[0]
    assert len(calls.read_text().splitlines()) == 1
    monkeypatch.setattr(self_check, "source_digest", lambda: "another source")
    resolved()
    assert len(calls.read_text().splitlines()) == 2
    check(dataclasses.replace(SHAPES, hidden=768), CPU)
    assert len(calls.read_text().splitlines()) == 3
    monkeypatch.setattr(self_check, "interpreted", lambda: False)
    resolved()
    assert len(calls.read_text().splitlines()) == 4


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("content", ["", "[]", "{", '{"environment": 3}', "cut", "unknown op"])
def test_damaged_verdicts_are_found_anew(children, content):
    calls = children()
    path = check(SHAPES, CPU).path
    if content == "cut":
        content = path.read_text()[:-40]
    if content == "unknown op":
        content = path.read_text().replace('"attention"', '"atention"')
    path.write_text(content)
    assert not check(SHAPES, CPU).kept_since
    assert check(SHAPES, CPU).kept_since
    assert len(calls.read_text().splitlines()) == 2


def test_a_cache_that_cannot_be_written_costs_no_run(children, tmp_path, monkeypatch):
    children()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not check(SHAPES, CPU).failed()


@pytest.mark.parametrize("fault", ["no device", "memory"])
@pytest.mark.usefixtures("on_cpu")
def test_a_check_that_cannot_be_done_is_said_and_nothing_is_kept(children, tmp_path, fault):
    children(embedding=fault)
    problem = "all devices are busy" if fault == "no device" else "too little free memory for the check of embedding"
    with pytest.raises(InputError, match=f"--self-check on: .*{problem}"):
        resolved()
    with pytest.raises(judged.CheckNotDone, match=problem):
        check(SHAPES, CPU)
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.usefixtures("on_cpu")
def test_off_and_auto_on_a_cpu_check_nothing(children):
    calls = children(attention="wrong")
    assert resolved(option="auto") == ("triton", [])
    assert resolved(option="off") == ("triton, unchecked as asked", [])
    assert not calls.read_text()


def test_the_environment_names_what_verdicts_hold_for(monkeypatch):
    assert environment_of(CPU).keys() == {"torch", "triton", "kernels", "device"}
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A GPU")
    found = environment_of(torch.device("cuda"))
    assert (found["device"], found["capability"]) == ("A GPU", "9.0")
    assert found["driver"]


def test_the_digest_of_the_source_changes_with_any_file_of_the_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, "_SOURCE", tmp_path)
    (tmp_path / "gelu.py").write_text("a = 1\n")
    before = self_check.source_digest()
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "ops.py").write_text("")
    between = self_check.source_digest()
    (tmp_path / "gelu.py").write_text("a = 2\n")
    assert len({before, between, self_check.source_digest()}) == 3


# What the kernel of GELU gives is a little too large, in the run as in the child that judges it.
PLANTED = """
from concord.kernels import gelu_kernels

right = gelu_kernels.gelu_forward


def wrong(x, bias):
    z, y = right(x, bias)
    return z, y * 1.3


gelu_kernels.gelu_forward = wrong
"""


@pytest.mark.slow
@pytest.mark.unwatched
@pytest.mark.usefixtures("on_cpu", "without_pictures")
def test_a_run_with_a_wrong_kernel_has_the_losses_of_torch_and_says_why(data, tmp_path, monkeypatch, capsys):
    child = tmp_path / "child.py"
    child.write_text(f"{PLANTED}\nimport sys\nfrom kernels.checks.child import main\nsys.exit(main())\n")
    monkeypatch.setattr(judged, "CHILD", (sys.executable, str(child)))
    model = write_small_model(tmp_path / "model", ["the", "was", "where", "is", "i", "saw", *ADJECTIVES, *THINGS])
    more = ("--model", str(model), "--max-steps", "1", "--batch-size", "1", "--dev-examples", "1", "--skip-test")

    def losses(name, *options):
        assert run_command(run.main, [*command(data, tmp_path / name, *more), *options]) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [entry["losses"] for entry in map(json.loads, lines) if entry["event"] == "step"]

    def close(found, expected):
        tolerance = 8 * TOLERANCES[torch.float32]
        pairs = zip(found, expected, strict=True)
        return all(own[task] == pytest.approx(other[task], rel=tolerance) for own, other in pairs for task in own)

    with monkeypatch.context() as torch_alone:
        for module in ("concord.kernels.dispatch", "concord.train.checks.self_check"):
            torch_alone.setattr(f"{module}.launches_triton", lambda device: False)
        expected = losses("torch", "--kernels", "torch")
    exec(PLANTED, {})
    try:
        found = losses("checked", "--self-check", "on")
        unchecked = losses("unchecked", "--self-check", "off")
    finally:
        from concord.kernels import gelu_kernels

        gelu_kernels.gelu_forward = gelu_kernels.gelu_forward.__globals__["right"]
    assert close(found, expected)
    assert not close(unchecked, expected)
    printed = capsys.readouterr().out
    assert "kernels    triton; GELU from torch: its check failed here, error 0.3, allowed" in printed
    summary = json.loads((tmp_path / "checked" / "summary.json").read_text())
    assert "GELU from torch" in summary["kernels"]
