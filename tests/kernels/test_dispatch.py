"""Which kernels an op takes, and what the run says about it."""

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from concord.kernels.dispatch import (
    all_from_triton,
    describe_kernels,
    launcher,
    needs_host_lengths,
    set_kernels,
    uses_triton,
    using_kernels,
)
from concord.kernels.ops import OPS
from concord.kernels.surgery.multi_tensor import combine_tensors, gram_of_tensors


def test_auto_takes_torch_for_cpu_tensors():
    assert not any(uses_triton(op, torch.zeros(1)) for op in OPS)
    assert "torch" in describe_kernels(torch.device("cpu"))


def test_triton_can_be_asked_for_and_the_choice_ends_with_its_block():
    with using_kernels("triton"):
        assert all(uses_triton(op, torch.zeros(1)) for op in OPS)
    assert not any(uses_triton(op, torch.zeros(1)) for op in OPS)


def test_fp64_always_takes_the_reference():
    with using_kernels("triton"):
        assert not any(uses_triton(op, torch.zeros(1, dtype=torch.float64)) for op in OPS)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_triton_for_cuda_tensors():
    assert uses_triton("bias_gelu", torch.zeros(1, device="cuda"))
    assert "triton" in describe_kernels(torch.device("cuda"))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="kernels 'cutlass': expected one of auto"):
        set_kernels("cutlass")
    with pytest.raises(ValueError, match="op 'atention': expected one of attention"):
        set_kernels("auto", from_torch=["atention"])
    with pytest.raises(KeyError, match="atention"):
        uses_triton("atention", torch.zeros(1))


@pytest.mark.parametrize("op", OPS)
def test_an_op_that_is_to_come_from_torch_does_so_alone(op):
    with using_kernels("triton", from_torch=[op]):
        assert [other for other in OPS if not uses_triton(other, torch.zeros(1))] == [op]
        assert needs_host_lengths(torch.device("cpu")) == OPS[op].reads_lengths
        assert not all_from_triton(torch.device("cpu"))
    with using_kernels("triton"):
        assert not needs_host_lengths(torch.device("cpu"))
        assert all_from_triton(torch.device("cpu"))


def test_gpus_before_sm_80_take_what_multiplies_matrices_from_torch(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    gpu = torch.device("cuda")
    assert needs_host_lengths(gpu)
    assert "older than sm_80" in describe_kernels(gpu)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 6))
    assert not needs_host_lengths(gpu)
    assert all_from_triton(gpu)
    assert describe_kernels(gpu) == "triton"


def test_a_launcher_makes_the_device_of_its_first_argument_the_current_one(monkeypatch):
    current, seen = [], []

    @contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.pop()

    @launcher(lambda values: torch.empty_like(values))
    def doubled(values: Tensor) -> Tensor:
        seen.extend(current)
        return values * 2

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    values = torch.ones(3)
    assert doubled(values).tolist() == [2, 2, 2]
    assert len(seen) == 1
    assert seen[0] is values


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_kernels_run_on_the_device_of_their_tensors_whatever_the_current_one():
    rows = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    there = [[row.to("cuda:1") for row in rows]]
    torch.testing.assert_close(gram_of_tensors(there).cpu(), gram_of_tensors([list(rows)]))
    weights = torch.tensor([[0.5, -2.0]])
    merged = combine_tensors(there, weights.to("cuda:1"))[0]
    torch.testing.assert_close(merged.cpu(), combine_tensors([list(rows)], weights)[0])
