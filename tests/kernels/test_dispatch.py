"""Which kernels an op takes, and what the run says about it."""

import pytest
import torch

from bert.errors import InputError
from kernels.dispatch import describe_kernels, set_kernels, uses_triton, using_kernels
from train.precision import choose_kernels


def test_auto_takes_torch_for_cpu_tensors():
    assert not uses_triton(torch.zeros(1))
    assert "torch" in describe_kernels(torch.device("cpu"))


def test_triton_can_be_asked_for_and_the_choice_ends_with_its_block():
    with using_kernels("triton"):
        assert uses_triton(torch.zeros(1))
    assert not uses_triton(torch.zeros(1))


def test_fp64_always_takes_the_reference():
    with using_kernels("triton"):
        assert not uses_triton(torch.zeros(1, dtype=torch.float64))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_triton_for_cuda_tensors():
    assert uses_triton(torch.zeros(1, device="cuda"))
    assert "triton" in describe_kernels(torch.device("cuda"))


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        set_kernels("cutlass")


def test_triton_on_a_cpu_that_does_not_interpret_is_bad_input(monkeypatch):
    monkeypatch.setattr("train.precision.interpreted", lambda: False)
    with pytest.raises(InputError, match="TRITON_INTERPRET=1"):
        choose_kernels("triton", torch.device("cpu"))
