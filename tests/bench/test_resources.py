"""python -m bench.resources: which products are at fault, and what it says of flags and of compilers that break."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.resources import __main__ as command
from bench.resources.compiled import Resources, half_products
from bench.resources.steps import MODELS, block_counts, steps
from bench.resources.summary import summarize, write_summary
from bench.resources.targets import TARGETS
from concord.bert.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SHAPES = ("32x32", "64x32", "64x64")


def resources(**changed):
    values = {
        "triton": "3.7.1",
        "target": "sm_90",
        "kernel": "gelu.forward_kernel",
        "used_by": "MiniLM short bf16",
        "registers": 40,
        "shared": 0,
        "spills": 0,
        "matrix": "",
        "load": 16,
        "store": 16,
        "programs": 12,
        "faults": (),
    }
    return Resources(**values | changed)


@pytest.fixture(scope="module")
def verdicts():
    """The faults of kernels with planted products, by name, compiled in a process that does not interpret them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))
    ran = [sys.executable, "-m", "tests.bench.planted_products"]
    result = subprocess.run(ran, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {name: json.loads(faults) for name, faults in (line.split("\t") for line in result.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["32x32", "64x32"])
@pytest.mark.parametrize("kernel", ["two_products", "unrolled_product"])
def test_several_products_in_16_bits_with_a_side_of_32_are_at_fault_on_sm_90(verdicts, kernel, shape):
    (fault,) = verdicts[f"{kernel} bf16 {shape}"]
    assert fault.startswith("2 products in 16 bits with a side of 32")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", ["one_product", "product_in_a_loop"])
def test_a_single_product_is_none_even_where_a_loop_repeats_it(verdicts, kernel, shape):
    assert verdicts[f"{kernel} bf16 {shape}"] == []


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["two_products", "unrolled_product"])
def test_several_products_with_sides_of_64_are_none_and_neither_are_those_of_fp32(verdicts, kernel):
    assert verdicts[f"{kernel} bf16 64x64"] == []
    assert verdicts[f"{kernel} fp32 32x32"] == verdicts[f"{kernel} fp32 64x32"] == []


@pytest.mark.slow
def test_two_bytes_at_once_are_at_fault_where_vectors_are_read_and_written_whole(verdicts):
    assert verdicts["gelu_planted 1"] == []
    assert verdicts["gelu_planted 3"] == [
        "loads 2 bytes a thread at once, expected 16",
        "stores 2 bytes a thread at once, expected 16",
    ]


def test_products_are_read_with_their_sides_and_those_of_fp32_left_out():
    ttir = """
    %5 = tt.dot %1, %2, %3, inputPrecision = ieee : tensor<16x64xbf16> * tensor<64x32xbf16> -> tensor<16x32xf32> loc(#1)
    %6 = tt.dot %1, %2, %3 : tensor<64x128xf16> * tensor<128x64xf16> -> tensor<64x64xf32>
    %7 = tt.dot %1, %2, %3, inputPrecision = ieee : tensor<16x16xf32> * tensor<16x16xf32> -> tensor<16x16xf32>
    """
    assert half_products(ttir) == [(16, 32, 64), (64, 64, 128)]


@pytest.mark.parametrize(
    "product",
    [
        "tt.dot %1, %2, %3 : tensor<2x16x16xf16> * tensor<2x16x16xf16> -> tensor<2x16x16xf32>",
        "tt.dot_scaled %1 scale %4, %2, %3 : tensor<16x16xf16> * tensor<16x16xf16> -> tensor<16x16xf32>",
    ],
)
def test_a_product_of_another_kind_is_not_passed_over(product):
    with pytest.raises(ValueError, match="none of two matrices"):
        half_products(f"%5 = {product}")


def test_the_planned_numbers_of_blocks_are_those_of_the_models():
    assert block_counts(list(MODELS)) == [8, 14, 26]
    planned = {step.blocks for step in steps(TARGETS["sm_90"], ["BERT-large"]) if hasattr(step, "blocks")}
    assert planned == {26}


@pytest.fixture
def compiled(monkeypatch):
    """The command finds that kernels are compiled here; the test says what its processes find, and is told of them."""
    monkeypatch.setattr(command, "interpreted", lambda: False)
    ran = []

    def plant(*found, reason=""):
        def run(job):
            ran.append(job)
            return [own for own in found if own.target == job.target], reason

        monkeypatch.setattr(command.Job, "run", run)
        return ran

    return plant


def test_every_model_is_compiled_for_sm_90_and_one_for_the_others_unless_all_are_asked_for(compiled, capsys):
    ran = compiled()
    assert command.main(["--jobs", "1"]) == 0
    assert {job.target: len(job.models) for job in ran} == {
        name: len(MODELS) if name == "sm_90" else 1 for name in TARGETS
    }
    ran.clear()
    assert command.main(["--jobs", "1", "--all"]) == 0
    assert {len(job.models) for job in ran} == {len(MODELS)}
    assert capsys.readouterr().out.splitlines() == ["0 kernels compiled, 0 at fault"] * 2


def test_a_kernel_at_fault_fails_the_command(compiled, capsys):
    compiled(resources(), resources(kernel="gram.products_kernel", faults=("spills 8 bytes",)))
    assert command.main(["--targets", "sm_90"]) == 1
    fine, fault, last = capsys.readouterr().out.splitlines()
    assert "FAULT" not in fine
    assert fault.endswith("FAULT: spills 8 bytes")
    assert last == "2 kernels compiled, 1 at fault"


@pytest.mark.slow
def test_a_compiling_process_that_breaks_fails_the_command_and_writes_no_summary(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "interpreted", lambda: False)
    broken = tmp_path / "broken"
    (broken / "triton").mkdir(parents=True)
    (broken / "triton" / "__init__.py").write_text("raise SystemExit('no driver, no compiler')\n")
    flags = ["--targets", "sm_80", "--triton", str(broken), "--summary", str(tmp_path / "out")]
    assert command.main(flags) == 1
    fault, last, summary = capsys.readouterr().out.splitlines()
    assert fault == f"sm_80, Triton {broken}: FAULT: the compiling process ended with 1: no driver, no compiler"
    assert last == "0 kernels compiled, 1 at fault"
    assert summary.startswith("no summary in ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--all", "--models", "MiniLM"], "--all"),
        (["--triton", "nowhere"], "no triton there"),
        (["--jobs", "0"], "expected 1 or more"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused_in_one_line(monkeypatch, flags, words):
    monkeypatch.setattr(command, "interpreted", lambda: False)
    with pytest.raises(InputError, match=words) as refused:
        command.main(flags)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")
def test_interpreted_kernels_are_refused():
    with pytest.raises(InputError, match="TRITON_INTERPRET"):
        command.main([])


def test_a_summary_counts_each_version_and_target_and_names_what_is_near_a_limit(tmp_path):
    found = [
        resources(registers=250, kernel="a"),
        resources(registers=30, shared=226 << 10, kernel="b", faults=("spills 8 bytes",)),
        resources(target="gfx942", registers=250, shared=100),
        resources(triton="3.6.0", registers=7),
    ]
    first, second, third = summarize(found)
    assert (first.target, first.compiled, first.at_fault, first.registers, first.shared) == (
        "sm_90",
        2,
        1,
        250,
        226 << 10,
    )
    assert (first.near, second.near, third.triton) == (("a", "b"), (), "3.6.0")
    write_summary(tmp_path, "python -m bench.resources --all", found)
    record = json.loads((tmp_path / "resources.json").read_text())
    assert record["command"] == "python -m bench.resources --all"
    assert [row["compiled"] for row in record["summaries"]] == [2, 1, 1]
    table = (tmp_path / "resources.md").read_text()
    assert "| 3.7.1 | sm_90 | 2 | 1 | 250 of 255 | 231,424 of 232,448 | a, b |" in table
