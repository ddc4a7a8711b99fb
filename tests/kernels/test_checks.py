"""The check of a kernel on its device: what it passes, and each kind of fault that it must not pass."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from concord.kernels.checks.cases import cases_of, lengths_up_to
from concord.kernels.checks.judging import Case, judge, time_case
from concord.kernels.checks.shapes import Shapes, ops_of
from concord.kernels.dispatch import uses_triton
from concord.kernels.ops import OPS
from concord.kernels.tolerances import TOLERANCES
from tests.kernels.parity import DEVICE

SHAPES = Shapes(
    hidden=384,
    inner=1536,
    attention=((12, 32),),
    words=30522,
    positions=512,
    segments=2,
    tokens=2816,
    longest=128,
    sequences=160,
    tasks=3,
    blocks=8,
    heads=3,
    compute="fp16",
    gradients="fp16",
    hidden_dropout=0.1,
    attention_dropout=0.1,
    surgery={"method": "pcgrad", "max_norm": 1.0, "scaling": True},
    accumulates=True,
    ordinary=True,
)


def doubling(kernel, dtype=torch.float32):
    """An op that doubles, whose kernel is `kernel`."""
    values = torch.randn(1000, device=DEVICE).to(dtype).double()

    def compute(compute_dtype):
        own = values.to(compute_dtype)
        return {"result": kernel(own) if uses_triton("bias_gelu", own) else own * 2}

    return Case(op="bias_gelu", shapes="1000", dtype=dtype, compute=compute, timed=lambda: compute(dtype))


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_cases_which_its_kernels_pass(op):
    torch.manual_seed(1)
    cases = 0
    for case in cases_of(op, SHAPES.on(torch.device(DEVICE)), torch.device(DEVICE)):
        verdict = judge(case)
        assert case.op == op
        assert verdict.passed, f"{case.name}: {verdict.reason}"
        assert verdict.error <= verdict.allowed
        cases += 1
    assert cases


def test_a_right_kernel_passes_in_every_dtype():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert judge(doubling(lambda values: values + values, dtype)).passed


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (lambda values: values * 2.01, "result: error 0.005, allowed"),
        (lambda values: (values.double() * 2).float().half(), "result is torch.float16, expected torch.float32"),
        (lambda values: (values * 2)[:999], r"result has the shape \[999\], expected \[1000\]"),
        (lambda values: values * 2 + torch.randn_like(values) * 1e-9, "differs from one call to the next"),
        (lambda values: torch.empty_like(values), "result: error nan"),
    ],
    ids=["constant", "dtype", "shape", "race", "unwritten"],
)
def test_a_wrong_kernel_does_not_pass_and_the_verdict_says_why(kernel, reason):
    verdict = judge(doubling(kernel))
    assert not verdict.passed
    assert re.search(reason, verdict.reason), verdict.reason


def test_a_case_may_be_held_to_the_table_of_tolerances():
    exact = torch.ones(3, dtype=torch.float64, device=DEVICE)
    for factor, passes in ((0.5, True), (2.0, False)):
        found = {"result": (exact + factor * TOLERANCES[torch.float32]).float()}
        case = Case(
            op="gram_matrix",
            shapes="3",
            dtype=torch.float32,
            compute=lambda dtype, found=found: found,
            exact=lambda: {"result": exact},
            repeats_torch=False,
        )
        assert judge(case).passed == passes


def test_whole_numbers_have_to_be_equal():
    case = Case(
        op="gather",
        shapes="3",
        dtype=torch.float32,
        compute=lambda dtype: {"ids": torch.arange(3) + int(uses_triton("gather", torch.zeros(1)))},
    )
    assert not judge(case).passed


def test_a_timing_is_of_the_kernels():
    took = []
    case = replace(doubling(lambda values: took.append(1) or values * 2), work=None)
    seconds, share = time_case(case, torch.device(DEVICE))
    assert seconds > 0
    assert share is None
    assert took


def test_shapes_pass_through_json_and_name_what_they_launch():
    assert Shapes.from_json(json.loads(json.dumps(SHAPES.as_json()))) == SHAPES
    assert "linear_cross_entropy" not in ops_of(SHAPES)
    assert "linear_cross_entropy" in ops_of(replace(SHAPES, vocabulary=True))
    forward = ops_of(replace(SHAPES, trains=False, first_tokens=False))
    assert forward == ["embedding", "attention", "add_layer_norm", "bias_gelu"]
    with pytest.raises(TypeError):
        Shapes.from_json({**SHAPES.as_json(), "another": 1})


def test_lengths_hold_the_longest_a_lone_token_and_odd_ones():
    for longest in (1, 2, 33, 512):
        lengths = lengths_up_to(longest, 700)
        assert max(lengths) == longest
        assert min(lengths) == 1
        assert sum(lengths) >= 700


@pytest.mark.slow
def test_the_child_judges_each_op_and_says_where_it_is():
    shapes = SHAPES.on(torch.device(DEVICE))
    request = {
        "shapes": shapes.as_json(),
        "device": DEVICE,
        "seed": 3,
        "ops": ["gather", "plan_update"],
        "kernels": "triton",
        "timed": True,
    }
    child = [sys.executable, "-m", "concord.kernels.checks.child"]
    found = subprocess.run(child, input=json.dumps(request), capture_output=True, text=True, check=True).stdout
    lines = [json.loads(line) for line in found.splitlines()]
    assert [line for line in lines if "passed" not in line] == [
        {"begins": "gather"},
        {"ends": "gather"},
        {"begins": "plan_update"},
        {"ends": "plan_update"},
    ]
    verdicts = [line for line in lines if "passed" in line]
    assert [verdict["op"] for verdict in verdicts] == ["gather", "plan_update"]
    assert all(verdict["passed"] and verdict["seconds"] > 0 for verdict in verdicts)


@pytest.mark.slow
def test_the_child_says_where_on_its_error_output_the_traceback_of_a_failed_case_lies(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, triton\n"
        "def fail(*arguments):\n"
        "    raise RuntimeError('PassManager::run failed')\n"
        "triton.cdiv = fail\n"
        "print('said before', file=sys.stderr)\n"
    )
    shapes = SHAPES.on(torch.device(DEVICE))
    request = {
        "shapes": shapes.as_json(),
        "device": DEVICE,
        "seed": 3,
        "ops": ["bias_gelu"],
        "kernels": "triton",
        "timed": False,
    }
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with (tmp_path / "errors").open("w+b") as errors:
        found = subprocess.run(
            [sys.executable, "-m", "concord.kernels.checks.child"],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            check=True,
        ).stdout
    _, verdict, *_ = map(json.loads, found.splitlines())
    start, stop = verdict["said"]
    said = (tmp_path / "errors").read_bytes()[start:stop].decode()
    assert said.startswith("Traceback (most recent call last)")
    assert said.rstrip().endswith("RuntimeError: PassManager::run failed")
    assert not verdict["passed"]
