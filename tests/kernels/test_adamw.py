"""The optimizer's pass against AdamW's formula in fp64, with the reference and with the kernel."""

import pytest
import torch

from concord.kernels.dispatch import using_kernels
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.surgery.adamw import combine_adamw_
from concord.kernels.surgery.plan import SurgerySettings
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE, DTYPES
from tests.samples import fill_gradients, flat_parameters, plain_parameters


def adamw_reference(weights, gradients, rates, settings, decays):
    """Adam as its paper's section 2 ends, then decoupled decay; fp64."""
    weights = weights.double().clone()
    m = v = torch.zeros_like(weights)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = settings.beta1 * m + (1 - settings.beta1) * gradient
        v = settings.beta2 * v + (1 - settings.beta2) * gradient**2
        alpha = rate * (1 - settings.beta2**step) ** 0.5 / (1 - settings.beta1**step)
        weights = weights - alpha * m / (v.sqrt() + settings.epsilon)
        if decays:
            weights = weights - rate * settings.weight_decay * weights
    return weights


def step(flat, coefficients, rate, number, settings, apply=True):
    rows = (
        torch.tensor(coefficients).expand(len(flat.block_names), -1) if isinstance(coefficients, list) else coefficients
    )
    correction = (1 - settings.beta2**number) ** 0.5 / (1 - settings.beta1**number)
    blocks = len(flat.block_names)
    combine_adamw_(
        flat,
        rows.to(DEVICE).contiguous(),
        factor=torch.ones((), device=DEVICE),
        step_sizes=torch.full((blocks,), rate * correction, device=DEVICE),
        shrinks=torch.full((blocks,), 1 - rate * settings.weight_decay, device=DEVICE),
        apply=torch.tensor(apply, device=DEVICE),
        beta1=settings.beta1,
        beta2=settings.beta2,
        epsilon=settings.epsilon,
    )


@pytest.fixture(params=["torch", "triton"], autouse=True)
def kernels(request):
    with using_kernels(request.param):
        yield


@pytest.mark.parametrize(
    ("tasks", "dtype", "gradient_dtype"),
    [
        (1, torch.float32, torch.float32),
        (3, torch.float16, torch.float32),
        (8, torch.float32, torch.bfloat16),
        *[(3, torch.bfloat16, torch.bfloat16)] * (torch.bfloat16 in DTYPES),
    ],
)
def test_steps_follow_the_formula_and_the_copy_follows_the_master(tasks, dtype, gradient_dtype):
    settings, rates = SurgerySettings(weight_decay=0.1), [1e-2, 3e-2, 2e-2]
    coefficients = [0.5, -2.0, 1.5, 0.0, 1.0, 1.0, -0.25, 3.0][:tasks]
    named, flat = flat_parameters(tasks, device=DEVICE, compute_dtype=dtype, gradient_dtype=gradient_dtype)
    original, history = {name: value.to(DEVICE) for name, value in plain_parameters().items()}, {n: [] for n in named}
    for number, rate in enumerate(rates, 1):
        fill_gradients(flat, seed=number)
        for entry in flat.entries:
            gradients = flat.view(flat.gradients, entry).double()
            merged = sum(c * gradient for c, gradient in zip(coefficients, gradients, strict=True))
            history[entry.name].append(merged)
        step(flat, coefficients, rate, number, settings)
    tolerance = 4 * TOLERANCES[torch.float32]
    for name, value in flat.values().items():
        expected = adamw_reference(original[name].detach(), history[name], rates, settings, value.ndim >= 2)
        # Weights near 1 that move by some 0.05: one rounding of the weight is 1e-6 of the movement.
        assert_close(value - original[name], expected - original[name].double(), tolerance)
        assert torch.equal(named[name], value.to(named[name].dtype))


def test_each_block_takes_the_coefficients_of_its_own_row():
    _, flat = flat_parameters(2, device=DEVICE)
    fill_gradients(flat)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    step(flat, rows, 1e-2, 1, SurgerySettings(beta1=0.0))
    for entry in flat.entries:
        merged = (rows[entry.block].to(DEVICE) @ flat.view(flat.gradients, entry).flatten(1)).view(entry.shape)
        assert_close(flat.view(flat.momentum, entry), merged, TOLERANCES[torch.float32])


def test_each_block_takes_its_own_step_size_and_shrinks_by_its_own_factor():
    _, flat = flat_parameters(1, device=DEVICE)
    fill_gradients(flat)
    before = {entry.name: flat.view(flat.master, entry).clone() for entry in flat.entries}
    combine_adamw_(
        flat,
        torch.ones(3, 1, device=DEVICE),
        factor=torch.tensor(0.5, device=DEVICE),
        step_sizes=torch.tensor([0.0, 1e-2, 2e-2], device=DEVICE),
        shrinks=torch.tensor([1.0, 1.0, 0.5], device=DEVICE),
        apply=torch.tensor(True, device=DEVICE),
    )
    for entry in flat.entries:
        value = flat.view(flat.master, entry)
        gradient = 0.5 * flat.view(flat.gradients, entry)[0]
        moved = before[entry.name] - [0.0, 1e-2, 2e-2][entry.block] * 0.1 * gradient / (
            (0.001 * gradient**2).sqrt() + 1e-6
        )
        assert_close(value, moved * (0.5 if entry.block == 2 and entry.decays else 1.0), TOLERANCES[torch.float32])


def test_a_block_with_a_step_size_of_zero_keeps_every_bit_of_weights_and_moments():
    _, flat = flat_parameters(1, device=DEVICE)
    fill_gradients(flat)
    step(flat, [1.0], 1e-2, 1, SurgerySettings())
    before = [buffer.clone() for buffer in (flat.master, flat.momentum, flat.variance)]
    combine_adamw_(
        flat,
        torch.ones(3, 1, device=DEVICE),
        factor=torch.ones((), device=DEVICE),
        step_sizes=torch.tensor([1e-2, 0.0, 1e-2], device=DEVICE),
        shrinks=torch.tensor([0.9, 1.0, 0.9], device=DEVICE),
        apply=torch.tensor(True, device=DEVICE),
    )
    for entry in flat.entries:
        for buffer, kept in zip((flat.master, flat.momentum, flat.variance), before, strict=True):
            same = torch.equal(flat.view(buffer, entry), flat.view(kept, entry))
            assert same == (entry.block == 1), entry.name


def test_a_step_that_is_not_applied_changes_no_bit_whatever_the_gradients():
    settings = SurgerySettings()
    _, flat = flat_parameters(device=DEVICE)
    fill_gradients(flat)
    step(flat, [1.0, 1.0, 1.0], 1e-2, 1, settings)
    before = [buffer.clone() for buffer in (flat.master, flat.momentum, flat.variance)]
    flat.gradients[0] = torch.inf
    flat.gradients[1] = torch.nan
    step(flat, [torch.nan, 1.0, 1.0], 1e-2, 2, settings, apply=False)
    for buffer, kept in zip((flat.master, flat.momentum, flat.variance), before, strict=True):
        assert torch.equal(buffer, kept)


def test_the_kernel_does_not_read_a_chunk_that_no_task_touched_and_moves_its_weights_on():
    settings = SurgerySettings()
    _, whole = flat_parameters(2, device=DEVICE)
    _, partly = flat_parameters(2, device=DEVICE)
    table = whole.entries[-2].start
    for flat in (whole, partly):
        fill_gradients(flat)
        step(flat, [1.0, -2.0], 1e-2, 1, settings)
        flat.gradients[:, table : table + CHUNK] = 0
        flat.gradients[1, table + CHUNK : table + 2 * CHUNK] = 0
    partly.touched[:, table // CHUNK] = 0
    partly.touched[1, table // CHUNK + 1] = 0
    partly.gradients[:, table] = torch.nan
    before = whole.master[table : table + CHUNK].clone()
    with using_kernels("triton"):
        for flat in (whole, partly):
            step(flat, [1.0, -2.0], 1e-2, 2, settings)
    assert not torch.equal(whole.master[table : table + CHUNK], before)
    for name in ("master", "momentum", "variance"):
        assert torch.equal(getattr(partly, name), getattr(whole, name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes 6.4 GB there; on a CPU pages that nobody writes take none")
def test_the_step_finds_task_gradients_further_apart_than_32_bits_can_say():
    _, flat = flat_parameters(3)
    stride = (1 << 30) + CHUNK
    storage = torch.empty(2 * stride + flat.size, dtype=torch.float16)
    fill_gradients(flat)
    near = flat.gradients.half()
    momenta = []
    for gradients in (near, storage.as_strided((3, flat.size), (stride, 1)).copy_(near)):
        flat.gradients = gradients
        flat.momentum.zero_()
        step(flat, [1.0, -2.0, 0.5], 1e-9, 1, SurgerySettings())
        momenta.append(flat.momentum.clone())
    assert momenta[0].any()
    assert torch.equal(*momenta)
