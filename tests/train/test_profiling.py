"""Steps of a run under a profiler: what their ops worked on, and that the run stays the same."""

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from concord.kernels.measure import Limits
from concord.train import report, run
from concord.train.command import run_command
from concord.train.profiles import kernel_classes
from concord.train.profiles.kernel_classes import COPIES, OTHER, PRODUCTS, class_of
from concord.train.profiles.rows import profile_lines
from concord.train.profiles.work import Work, with_work, work_of
from tests.train.small_runs import command, refused

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(copy=1e9, products={"float32": 1e12, "bfloat16": 4e12})


def profiled(function):
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        function()
    return work_of(profiler.events())


def test_products_and_copies_are_counted_to_the_byte():
    left, right, bias = torch.randn(8, 16), torch.randn(16, 4), torch.randn(4)
    found = profiled(lambda: (torch.mm(left, right), torch.addmm(bias, left, right)))[PRODUCTS]
    matrices = 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert found.operations == {"float32": 2 * 2 * 8 * 16 * 4}
    assert found.bytes == 2 * matrices + 4 * 4
    half = profiled(lambda: torch.mm(left.bfloat16(), right.bfloat16()))
    assert half[PRODUCTS].operations == {"bfloat16": 2 * 8 * 16 * 4}
    assert half[PRODUCTS].bytes == matrices / 2
    # Each cast reads 4 bytes an element and writes 2, and is counted once, whatever it is made of.
    assert half[COPIES].bytes == 6 * (8 * 16 + 16 * 4)
    others = profiled(lambda: (torch.bmm(left[None], right[None]), torch.mv(left, left[0]), bias.dot(bias)))
    assert others[PRODUCTS].operations == {"float32": 2 * 8 * 16 * 4 + 2 * 8 * 16 + 2 * 4}
    assert set(profiled(lambda: left.relu())) == set(), "what has no class has no bytes"


def test_a_share_of_the_limit_is_that_of_bytes_or_of_products_whichever_takes_longer():
    assert Work(bytes=2e9).floor(LIMITS) == 2.0
    assert Work(bytes=2e9, operations={"float32": 3e12, "bfloat16": 4e12}).floor(LIMITS) == 4.0
    assert Work(operations={"float16": 1.0}).floor(LIMITS) is None
    rows = [{"name": name, "seconds": 8.0, "launches": 1} for name in (PRODUCTS, COPIES, OTHER, "gaps")]
    work = {PRODUCTS: Work(1e9, {"float32": 8e12}), COPIES: Work(1e9, {})}
    found = with_work(rows, work, 2, LIMITS)
    assert [row["share_of_limit"] for row in found] == [0.5, 0.0625, None, None]
    assert [row["bytes"] for row in found] == [5e8, 5e8, None, None]
    assert [row["operations"] for row in found] == [4e12, None, None, None]
    assert [row["share_of_limit"] for row in with_work(rows, work, 2, None)] == [None] * 4


def test_a_product_whose_operations_are_not_known_has_no_share():
    class Event:
        name, cpu_children = "mkldnn::_linear_pointwise", ()
        input_shapes, input_dtypes = [[4, 4], [4, 4]], ["float", "float"]

    work = work_of([Event])
    assert work[PRODUCTS].bytes == 128
    (row,) = with_work([{"name": PRODUCTS, "seconds": 1.0, "launches": 1}], work, 1, LIMITS)
    assert (row["share_of_limit"], row["operations"]) == (None, None)


def test_every_native_kernel_has_a_class():
    source = (ROOT / "kernels" / "native" / "native.cpp").read_text()
    names = re.findall(r'library\.def\("(\w+)"', source)
    assert len(names) > 10
    assert set(names) == set(kernel_classes._NATIVE)
    assert OTHER not in {class_of(f"concord_native::{name}") for name in names}


@pytest.mark.slow
def test_a_profiled_run_is_the_same_run_with_a_table_and_a_trace(data, tmp_path, capsys, monkeypatch, without_pictures):
    monkeypatch.setattr("concord.train.profiles.profiling.measure_limits", lambda device: LIMITS)
    more = ("--epochs", "1", "--skip-test", "--kernels", "torch", "--products", "torch", "--self-check", "off")
    more = (*more, "--batch-size", "2")
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert run_command(run.main, command(data, plain, *more)) == 0
    capsys.readouterr()
    assert run_command(run.main, [*command(data, watched, *more), "--profile", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    weights = [(folder / "best" / "model.safetensors").read_bytes() for folder in (plain, watched)]
    assert weights[0] == weights[1]
    found = json.loads((watched / "profile.json").read_text())
    assert (found["steps"], found["first_step_of_process"]) == (3, 6)
    classes = {row["name"]: row for row in found["classes"]}
    assert {PRODUCTS, COPIES, OTHER, "gaps"} <= classes.keys()
    assert sum(row["seconds"] for row in classes.values()) == pytest.approx(found["seconds"])
    assert classes[PRODUCTS]["bytes"] > 0
    assert classes[PRODUCTS]["share_of_limit"] > 0  # of made-up limits, whatever the machine reaches
    with gzip.open(watched / "profile-trace.json.gz") as file:
        trace = json.load(file)
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    begin = next(n for n, line in enumerate(printed) if line.startswith("profile    3 steps, "))
    lines = profile_lines(found)
    assert printed[begin : begin + len(lines)] == lines
    assert not [path.name for path in watched.iterdir() if path.name.endswith((".part", ".part.gz"))]
    assert run_command(report.main, [str(watched)]) == 0
    assert "steps by class of op" in (watched / "report.html").read_text()
    (watched / "profile.json").write_text('{"steps": 3, "seconds": 1, "classes": [{"name": "x"}]}')
    assert "not the profile of a run of this version" in refused(capsys, report.main, [watched])


@pytest.mark.slow
def test_a_profile_that_an_evaluation_cuts_off_begins_again(data, tmp_path, capsys, monkeypatch, without_pictures):
    monkeypatch.setattr("concord.train.profiles.profiling.measure_limits", lambda device: LIMITS)
    more = ("--epochs", "1", "--skip-test", "--kernels", "torch", "--products", "torch", "--self-check", "off")
    more = (*more, "--batch-size", "2", "--profile", "2", "--max-steps", "8")
    assert run_command(run.main, [*command(data, tmp_path / "again", *more), "--evaluate-every", "5"]) == 0
    assert json.loads((tmp_path / "again" / "profile.json").read_text())["steps"] == 2
    capsys.readouterr()
    assert run_command(run.main, [*command(data, tmp_path / "none", *more), "--evaluate-every", "1"]) == 0
    assert "--profile 2: no step was profiled" in capsys.readouterr().out
    assert not (tmp_path / "none" / "profile.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "0"], "--profile 0: expected a number of steps, at least 1"),
        (["--profile", "3", "--seeds", "1,2"], "--profile: it is of one run, not of several seeds"),
    ],
)
def test_a_profile_of_nothing_is_refused(capsys, arguments, said):
    assert said in refused(capsys, run.main, arguments)
