"""The summary has of each stage what matters: counts, what failed, and comparisons where parity is proven."""

import pytest

from bench import gpu_digests as digests
from bench.merge_results import merge_results
from bench.result_files import parse_results
from tests.bench.samples import MODULE, row, write

CASES = """device     NVIDIA H200
    GELU: 60 x 96, fp32                     passed  error 7.6e-08 of 7.2e-07
    LayerNorm: 61 x 96, bf16                FAILED  its check failed here, CompilationError: at 12:8
        Traceback (most recent call last)
        RuntimeError: FAILED  to pass
"""
OPS = """
GELU                                 passed  error 7.7e-08 of 7.2e-07
LayerNorm                            FAILED  its check failed here, CompilationError: at 12:8 (61 x 96, bf16)

12 of 13 ops passed, in 40 cases
"""


def test_of_the_doctor_the_ops_that_failed_or_the_cases_so_far():
    failed = "LayerNorm                            FAILED  its check failed here, CompilationError: at 12:8"
    assert digests.doctor(CASES + OPS) == ["12 of 13 ops passed, in 40 cases", f"{failed} (61 x 96, bf16)"]
    count, case = digests.doctor(CASES)
    assert count == "2 cases judged, 1 failed"
    assert case.startswith("LayerNorm: 61 x 96, bf16")
    assert digests.doctor("device\nerror: nothing can be judged\n") == ["error: nothing can be judged"]
    assert digests.doctor("") == []


def test_of_tests_the_counts_and_those_that_failed():
    log = "..F\nE  assert\nFAILED tests/a.py::test_b - assert\n1 failed, 2 passed in 3s\n"
    assert digests.tests(log) == ["1 failed, 2 passed in 3s", "FAILED tests/a.py::test_b - assert"]


def test_of_the_sanitizer_both_counts_and_the_first_errors():
    log = (
        "========= COMPUTE-SANITIZER\n...\n3 passed in 4s\n========= Invalid __global__ read of size 2 bytes\n"
        "=========     at _gelu_forward_kernel+0x10\n========= ERROR SUMMARY: 1 error\n"
    )
    assert digests.sanitizer(log) == [
        "3 passed in 4s",
        "========= ERROR SUMMARY: 1 error",
        "========= Invalid __global__ read of size 2 bytes",
    ]
    assert digests.sanitizer("========= Device not supported\n") == ["========= Device not supported"]


def test_of_parity_the_count_comes_first():
    log = "tests/a.py: cut off (a)\ntests/b.py: 1 of 2 tests failed\n1 of 3 modules passed; the slowest took 9 s\n"
    assert [line.split()[0] for line in digests.parity(log)] == ["1", "tests/a.py:", "tests/b.py:"]


def test_of_a_training_run_what_it_says_of_kernels_and_speed():
    log = "device     H200\nkernels    triton\ngraphs     on\nspeed      9 examples/s\nwritten    run\n"
    assert [line.split()[0] for line in digests.training(log)] == ["kernels", "graphs", "speed"]
    assert digests.training("kernels    triton\nRuntimeError: CUDA error\n")[-1] == "RuntimeError: CUDA error"


@pytest.fixture
def measured(tmp_path):
    """A folder with what a benchmark has left, of ops at two sizes and of a surgery."""

    def peers(**more):
        return [row(**more, peer=peer, median=median) for peer, median in (("concord", 2e-3), ("torch", 5e-3))]

    rows = [
        *peers(name="GELU forward", floor_seconds=1e-3, parity=[MODULE]),
        *peers(name="GELU forward", case={"tokens": 16384, "dtype": "bfloat16"}, floor_seconds=1e-3, parity=[MODULE]),
        *peers(name="GELU backward", case={"tokens": 16384, "dtype": "bfloat16"}, parity=["tests/none.py"]),
        *peers(group="surgery", name="surgery", case={"tasks": 16, "model": "MiniLM"}, parity=[MODULE]),
        *peers(group="other", name="a step's batch", case={}, parity=[MODULE]),
    ]
    write(tmp_path / "results", rows, parity={MODULE: {"passed": 2, "failed": 0, "skipped": 0}})
    return tmp_path / "results"


def test_of_results_a_line_each_and_for_kernels_one_at_the_largest_size(measured):
    assert digests.results(measured)("3 passed in 2s") == [
        "16384 tokens: GELU backward 2.00 ms (parity not shown: torch); GELU forward 2.00 ms 50% (torch 2.5x)",
        "tasks 16: 2.00 ms (torch 2.5x)",
        "a step's batch: 2.00 ms (torch 2.5x)",
    ]


def test_many_kernels_take_several_lines(measured, monkeypatch):
    monkeypatch.setattr(digests, "_WIDE", 70)
    assert digests.results(measured)("")[:2] == [
        "16384 tokens: GELU backward 2.00 ms (parity not shown: torch)",
        "  GELU forward 2.00 ms 50% (torch 2.5x)",
    ]


def test_without_results_it_is_the_logs_end(tmp_path):
    assert digests.results(tmp_path / "none")("E  CUDA error\nno tests ran\n") == ["no tests ran"]
    (tmp_path / "a.json").write_text("{")
    assert "not JSON" in digests.results(tmp_path)("")[0]


def test_merged_results_have_all_rows_under_the_first_header(tmp_path):
    assert merge_results(tmp_path / "none", tmp_path / "out", "") is None
    for number, name in enumerate(("b", "a"), start=1):
        write(tmp_path / "in" / name, [row(name=name)], day=number)
    path = merge_results(tmp_path / "in", tmp_path / "out", "bash bench/gpu.sh all OUT")
    merged = parse_results(path.read_bytes(), "merged")
    assert [own.name for own in merged.rows] == ["b", "a"]
    assert merged.date.day == 1
    assert merged.command == "bash bench/gpu.sh all OUT"
    write(tmp_path / "in" / "c", [row(name="c")], day=3)
    assert merge_results(tmp_path / "in", tmp_path / "out", "") == path
    assert len(parse_results(path.read_bytes(), "merged").rows) == 3
    assert [own.name for own in (tmp_path / "out").iterdir()] == [path.name]
