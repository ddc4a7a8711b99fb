"""The self-check of a CPU's native kernels: they are judged once, and what is wrong is taken from torch and said."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from concord.bert.errors import InputError
from concord.kernels.dispatch import takes_native
from concord.kernels.native import build
from concord.kernels.native.build import native_library
from concord.kernels.ops import OPS
from concord.train.checks import self_check
from concord.train.checks.self_check import resolve_kernels
from concord.train.steps.precision import Precision
from tests.kernels.test_checks import SHAPES
from tests.train.checked_runs import PASSED
from tests.train.told import Told

FP32 = Precision(torch.device("cpu"), torch.float32, False, "")
NATIVE = dataclasses.replace(SHAPES, compute="fp32", gradients="fp32")

pytestmark = pytest.mark.skipif(
    bool(native_library().missing), reason=native_library().missing or "the native kernels are there"
)


def resolved(kernels="auto", option="auto", shapes=NATIVE):
    told = Told()
    return resolve_kernels(kernels, option, FP32, lambda: shapes, told), told.lines


@pytest.fixture
def wrong_gelu(monkeypatch):
    right = torch.ops.concord_native.gelu_forward

    def wrong(x, bias):
        z, y = right(x, bias)
        return z, y * 1.001

    monkeypatch.setattr(torch.ops.concord_native, "gelu_forward", wrong)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_native_op_is_judged_in_less_than_some_seconds_and_passes(dtype):
    threads, numbers = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)  # several that wait for one another would count too
    try:
        began = time.thread_time()
        taken, lines = resolved(shapes=dataclasses.replace(NATIVE, compute=dtype, gradients=dtype))
        assert time.thread_time() - began < 3  # it takes half a second
    finally:
        torch.set_num_threads(threads)
    assert taken.startswith("native (C++ for ") and "from torch" not in taken
    assert lines[0].startswith("checking") and f"of {sum(op.native for op in OPS.values())} ops, all passed" in lines[1]
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.usefixtures("wrong_gelu")
def test_a_wrong_native_kernel_is_taken_from_torch_and_said():
    taken, lines = resolved()
    assert "; GELU from torch: its check failed here, error 0.001, allowed " in taken
    assert "6 failed" in lines[1]
    own = torch.zeros(1)
    assert [op for op in OPS if OPS[op].native and not takes_native(op, own)] == ["bias_gelu"]


@pytest.mark.usefixtures("wrong_gelu")
def test_with_kernels_native_an_op_at_fault_is_an_error_and_off_trusts_it():
    with pytest.raises(InputError, match=r"^--kernels native: GELU: its check failed here, .*--kernels auto takes it"):
        resolved("native")
    taken, lines = resolved("native", "off")
    assert taken.endswith("unchecked as asked") and not lines


def test_an_op_that_raises_is_at_fault(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such thing\nand more")

    monkeypatch.setattr(torch.ops.concord_native, "gram_of_flat", broken)
    assert "Gram matrix from torch: its check failed here, RuntimeError: no such thing" in resolved()[0]


def test_what_native_code_leaves_unwritten_is_seen(monkeypatch):
    right = torch.ops.concord_native.gelu_backward

    def forgetful(dy, z, *rest):
        right(dy, z, *rest)
        return torch.ops.aten.empty_like(dy)  # as C++ asks for it

    monkeypatch.setattr(torch.ops.concord_native, "gelu_backward", forgetful)
    assert "GELU from torch: its check failed here, error nan" in resolved()[0]


def test_a_verdict_is_kept_until_shapes_library_or_processor_change(monkeypatch):
    assert "kept in" not in resolved()[1][-1]
    assert "kept in" in resolved()[1][-1]
    # A batch of another size launches the same.
    assert "kept in" in resolved(shapes=dataclasses.replace(NATIVE, tokens=5000, sequences=200))[1][-1]
    assert "kept in" not in resolved(shapes=dataclasses.replace(NATIVE, hidden=768))[1][-1]
    monkeypatch.setattr(self_check, "processor", lambda: "another one")
    assert "kept in" not in resolved()[1][-1]
    monkeypatch.setattr(self_check, "native_library", lambda: build.Native(digest="another one"))
    assert "kept in" not in resolved()[1][-1]


def test_beside_other_threads_the_check_is_made_in_a_child_and_changes_nothing_of_the_process(monkeypatch):
    calls = []

    def judge_ops(ops, shapes, device, **options):
        calls.append((ops, options))
        return [dict(PASSED, op=op) for op in ops]

    monkeypatch.setattr(self_check, "runs_alone", lambda: False)
    monkeypatch.setattr(self_check, "judge_ops", judge_ops)
    monkeypatch.delattr(self_check, "judge_all")
    assert resolved()[0].startswith("native (C++ for ")
    ((ops, options),) = calls
    assert set(ops) == {op for op in OPS if OPS[op].native}
    assert options["kernels"] == "native"


def test_what_a_thread_finds_another_does_not_judge_again(monkeypatch):
    begun, ends, calls = threading.Event(), threading.Event(), []

    def judge_ops(ops, *arguments, **options):
        calls.append(ops)
        begun.set()
        assert ends.wait(60)
        return [dict(PASSED, op=op) for op in ops]

    monkeypatch.setattr(self_check, "runs_alone", lambda: False)
    monkeypatch.setattr(self_check, "judge_ops", judge_ops)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(resolved)
        assert begun.wait(60)
        told = Told()
        second = pool.submit(resolve_kernels, "auto", "auto", FP32, lambda: NATIVE, told)
        while not told.lines:  # it has found nothing kept, and says that it checks
            time.sleep(0.01)
        ends.set()
        assert first.result()[0] == second.result()
    assert len(calls) == 1


CHILD = """
import sys
from pathlib import Path
from concord.kernels.native import build
build.SOURCE = Path(sys.argv[1])
from tests.train.test_native_check import resolved
print(resolved()[0])
"""


@pytest.mark.long
def test_a_wrong_constant_in_the_source_is_found(tmp_path):
    folder = tmp_path / "native"
    shutil.copytree(build.SOURCE.parent, folder)
    source = folder / "gelu.h"
    text = source.read_text()
    assert text.count("0.5f) * (V(1.0f)") == 1  # of Phi(z), for fp32
    source.write_text(text.replace("0.5f) * (V(1.0f)", "0.5001f) * (V(1.0f)"))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", CHILD, str(folder / "native.cpp")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert "; GELU from torch: its check failed here, error 0.0002, allowed " in found.stdout, found.stderr
