"""What is captured is computed from what was prepared; a record of a device is made whatever its driver tells."""

import pynvml
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench import measure
from bench.measure import device_record
from concord.kernels.measure import Limits, captured, summarise
from tests.bench.peer_updates import NEEDS_CUDA


def test_on_a_cpu_the_function_itself_is_given_what_was_prepared_once():
    prepared = []

    def prepare():
        prepared.append(1)
        return 2, 3

    function = captured(lambda a, b: a * b, torch.device("cpu"), prepare=prepare)
    assert [function(), function()] == [6, 6]
    assert prepared == [1]


@pytest.mark.cuda
@NEEDS_CUDA
def test_a_backward_is_captured_with_the_forward_that_was_prepared():
    device = torch.device("cuda")
    x, found = torch.randn(5, device=device, requires_grad=True), torch.zeros(5, device=device)

    def backward(y):
        found.copy_(torch.autograd.grad(y, x, retain_graph=True)[0])

    replay = captured(backward, device, prepare=lambda: (x.square().sum(),))
    found.zero_()
    replay()
    torch.testing.assert_close(found, 2 * x.detach())


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize(
    "backends",
    [[SDPBackend.EFFICIENT_ATTENTION], [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]],
    ids=["efficient", "torch's choice"],
)
def test_a_captured_backward_of_attention_drops_what_its_forward_dropped(backends):
    device = torch.device("cuda")
    q, k = (torch.zeros(2, 4, 64, 64, device=device, dtype=torch.bfloat16) for _ in range(2))
    v = torch.eye(64, device=device, dtype=torch.bfloat16).expand(2, 4, 64, 64).clone().requires_grad_()
    mask = torch.ones(2, 1, 1, 64, device=device, dtype=torch.bool)
    kept, found = torch.zeros_like(v), torch.zeros_like(v)

    def forward():
        with sdpa_kernel(backends):
            y = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.5)
        kept.copy_(y.detach())
        return (y,)

    def backward(y):
        found.copy_(torch.autograd.grad(y, v, torch.ones_like(y), retain_graph=True)[0])

    replay = captured(backward, device, prepare=forward)
    found.zero_()
    replay()
    # Values are unit vectors, so that the result is the attention that was left, and v's gradient its columns' sums.
    assert (kept == 0).any()
    torch.testing.assert_close(found, kept.sum(-2)[..., None].expand_as(found), atol=0.02, rtol=0.02)


def test_a_driver_that_tells_nothing_leaves_gaps_in_the_record_and_no_more(monkeypatch):
    def refuse(*arguments):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    for name in ("Init", "SystemGetDriverVersion", "DeviceGetClockInfo", "DeviceGetTemperature", "DeviceGetPowerUsage"):
        monkeypatch.setattr(pynvml, f"nvml{name}", refuse)
    monkeypatch.setattr(measure, "measure_limits", lambda device: Limits(copy=1.0, products={}))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = device_record(torch.device("cuda"))
    assert (found["device"], found["capability"]) == ("GPU", [9, 0])
    assert {found[name] for name in ("driver", "clock_mhz", "memory_clock_mhz", "temperature_c", "power_w")} == {None}


def test_a_timing_is_the_median_and_the_20th_and_80th_percentile():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (timing.p20, timing.median, timing.p80) == (2.0, 3.5, 5.0)
