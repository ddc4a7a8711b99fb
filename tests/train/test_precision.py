"""Device and number format: what the flags choose where."""

import pytest
import torch

from concord.bert.errors import InputError
from concord.kernels.dispatch import interpreted, takes_triton
from concord.kernels.native.build import Native
from concord.kernels.ops import OPS
from concord.train.steps.precision import choose_kernels, choose_precision


def pretend_cpu(monkeypatch, *, bf16):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def pretend_gpu(monkeypatch, capability):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("capability", "dtype", "scaling"), [((9, 0), torch.bfloat16, False), ((7, 5), torch.float16, True)]
)
def test_a_gpu_takes_bf16_where_it_has_it_and_else_fp16_with_loss_scaling(monkeypatch, capability, dtype, scaling):
    pretend_gpu(monkeypatch, capability)
    found = choose_precision("auto", "auto")
    assert (found.device.type, found.compute_dtype, found.scaling) == ("cuda", dtype, scaling)


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_takes_bf16_only_where_it_multiplies_it(monkeypatch, bf16, dtype):
    pretend_cpu(monkeypatch, bf16=bf16)
    found = choose_precision("auto", "auto")
    assert (found.device.type, found.compute_dtype, found.scaling) == ("cpu", dtype, False)
    assert "bf16" in found.reason


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_format_that_is_asked_for_is_taken(amp, dtype):
    found = choose_precision("cpu", amp)
    assert found.compute_dtype == dtype
    assert found.scaling == (amp == "fp16")


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    pretend_cpu(monkeypatch, bf16=False)
    with pytest.raises(InputError, match="no CUDA device"):
        choose_precision("cuda", "off")


@pytest.mark.parametrize(
    ("allowed", "dtype"),
    [("AVX512_CORE_VNNI", torch.float32), ("avx2", torch.float32), ("AVX512_CORE_BF16", torch.bfloat16)],
)
def test_a_cpu_whose_bf16_products_are_hidden_from_onednn_does_not_take_bf16(monkeypatch, allowed, dtype):
    pretend_cpu(monkeypatch, bf16=True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert choose_precision("cpu", "auto").compute_dtype == dtype


def test_triton_on_a_cpu_that_does_not_interpret_is_bad_input(monkeypatch):
    monkeypatch.setattr("concord.train.steps.precision.interpreted", lambda: False)
    with pytest.raises(InputError, match="TRITON_INTERPRET=1"):
        choose_kernels("triton", choose_precision("cpu", "off"))


@pytest.mark.parametrize("amp", ["auto", "bf16"])
def test_bf16_in_tritons_interpreter_is_refused_with_what_to_use_instead(monkeypatch, amp):
    pretend_cpu(monkeypatch, bf16=True)
    monkeypatch.setattr("concord.train.steps.precision.interpreted", lambda: True)
    with pytest.raises(InputError, match=r"wrong products in bf16.* use --amp off or --amp fp16"):
        choose_kernels("triton", choose_precision("cpu", amp))
    assert "interpreted" in choose_kernels("triton", choose_precision("cpu", "fp16"))
    assert "triton" not in choose_kernels("auto", choose_precision("cpu", amp))


def test_a_cpu_takes_native_kernels_or_says_why_it_cannot(monkeypatch):
    fp32, fp16 = choose_precision("cpu", "off"), choose_precision("cpu", "fp16")
    monkeypatch.setattr("concord.train.steps.precision.native_library", lambda: Native(built=9.4))
    assert choose_kernels("auto", fp32).startswith("native (C++ for ")
    assert choose_kernels("native", fp32).endswith("; built in 9 s")
    assert choose_kernels("auto", fp16) == "torch (reference expressions; there are no native kernels of fp16)"
    monkeypatch.setattr("concord.train.steps.precision.native_library", lambda: Native(missing="no compiler"))
    assert choose_kernels("auto", fp32) == "torch (reference expressions; no compiler)"
    with pytest.raises(InputError, match=r"^--kernels native: no compiler; --kernels auto takes the torch references$"):
        choose_kernels("native", fp32)
    pretend_gpu(monkeypatch, (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "a GPU")
    with pytest.raises(InputError, match=r"^--kernels native: needs a CPU, and this run is on a GPU$"):
        choose_kernels("native", choose_precision("cuda", "off"))


def test_triton_where_it_is_not_installed_is_bad_input_and_auto_says_why_torch_is_taken(monkeypatch):
    pretend_gpu(monkeypatch, (9, 0))
    monkeypatch.setattr("concord.kernels.dispatch._has_triton", False)
    with pytest.raises(InputError, match=r"^--kernels triton: Triton is not installed here; --kernels auto takes"):
        choose_kernels("triton", choose_precision("cuda", "auto"))
    assert choose_kernels("auto", choose_precision("cuda", "auto")) == "torch: Triton is not installed here"
    assert not interpreted()
    assert not any(takes_triton(op, torch.device("cuda")) for op in OPS)


@pytest.mark.parametrize("device", ["tpu", "CPU", "cuda:0", "meta", None])
def test_a_device_that_there_is_not_is_refused_in_a_line(device):
    with pytest.raises(InputError, match=r"^--device .*expected one of auto, cpu, cuda"):
        choose_precision(device, "off")
