"""The flat layout, the Gram matrix over it and the optimizer's pass."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from kernels import AdamWSettings, FlatParameters, combine_adamw_, gram_matrix
from kernels.flat import CHUNK
from tests.tolerances import assert_close


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.matrix": (40, 60), "a.bias": (40,), "b.matrix": (3, 7), "b.scale": (1,), "c.table": (200, 30)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def make(tasks=3, seed=0, **more):
    named = parameters(seed)
    flat = FlatParameters(named, {name: name.split(".")[0] for name in named}, tasks=tasks, **more)
    return named, flat


def fill(flat, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for entry in flat.entries:
        view = flat.view(flat.gradients, entry)
        view.copy_(torch.randn(view.shape, generator=generator))


def test_every_parameter_starts_on_a_chunk_and_keeps_its_value():
    named, flat = make()
    original = parameters()
    for entry in flat.entries:
        assert entry.start % CHUNK == 0
        assert torch.equal(named[entry.name], original[entry.name])
        assert torch.equal(flat.values()[entry.name], original[entry.name])
    spans = sorted((entry.start, entry.start + entry.size) for entry in flat.entries)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


def test_parameters_are_views_so_that_updates_need_no_copy_back():
    named, flat = make()
    flat.master.add_(1)
    assert torch.equal(named["a.matrix"], parameters()["a.matrix"] + 1)


def test_the_tables_name_each_chunks_block_and_decay():
    _, flat = make()
    assert flat.block_names == ["a", "b", "c"]
    for entry in flat.entries:
        chunks = slice(entry.start // CHUNK, -(-(entry.start + entry.size) // CHUNK))
        assert set(flat.chunk_block[chunks].tolist()) == {entry.block}
        assert set(flat.chunk_decays[chunks].tolist()) == {len(entry.shape) >= 2}
    assert sum(run.stop - run.start for run in flat.runs) == flat.size


def test_low_precision_serves_matrices_and_the_master_serves_vectors():
    named, flat = make(compute_dtype=torch.bfloat16)
    assert named["a.matrix"].dtype == torch.bfloat16
    assert named["a.bias"].dtype == torch.float32
    assert flat.values()["a.matrix"].dtype == torch.float32


@pytest.mark.parametrize("tasks", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gram_matrix_of_each_block_is_that_of_its_gradients(tasks, dtype):
    _, flat = make(tasks, gradient_dtype=dtype)
    fill(flat)
    gram = gram_matrix(flat)
    for block, name in enumerate(flat.block_names):
        pieces = [flat.view(flat.gradients, e).reshape(tasks, -1) for e in flat.entries if e.name.startswith(name)]
        whole = torch.cat(pieces, 1).double()
        assert_close(gram[block], whole @ whole.t(), 1e-6)


def test_a_gradient_that_is_not_finite_shows_on_the_diagonal():
    for value in (torch.inf, -torch.inf, torch.nan):
        _, flat = make()
        fill(flat)
        flat.gradients[1, 5] = value
        finite = torch.isfinite(gram_matrix(flat).sum(0).diagonal())
        assert finite.tolist() == [True, False, True]


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
    combine_adamw_(
        flat,
        torch.tensor(coefficients),
        learning_rate=torch.tensor(rate),
        step=torch.tensor(float(number)),
        apply=torch.tensor(apply),
        settings=settings,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_follow_the_formula_and_the_copy_follows_the_master(dtype):
    settings, rates, coefficients = AdamWSettings(weight_decay=0.1), [1e-2, 3e-2, 2e-2], [0.5, -2.0, 1.5]
    named, flat = make(compute_dtype=dtype)
    original, history = parameters(), {name: [] for name in named}
    for number, rate in enumerate(rates, 1):
        fill(flat, seed=number)
        for entry in flat.entries:
            gradients = flat.view(flat.gradients, entry).double()
            merged = sum(c * gradient for c, gradient in zip(coefficients, gradients, strict=True))
            history[entry.name].append(merged)
        step(flat, coefficients, rate, number, settings)
    for name, value in flat.values().items():
        expected = adamw_reference(original[name].detach(), history[name], rates, settings, value.ndim >= 2)
        # Weights near 1 that move by some 0.05: one rounding of the weight is 1e-6 of the movement.
        assert_close(value - original[name], expected - original[name].double(), 2e-5)
        assert torch.equal(named[name], value.to(named[name].dtype))


def test_a_step_that_is_not_applied_changes_no_bit_whatever_the_gradients():
    settings = AdamWSettings()
    _, flat = make()
    fill(flat)
    step(flat, [1.0, 1.0, 1.0], 1e-2, 1, settings)
    before = [buffer.clone() for buffer in (flat.master, flat.momentum, flat.variance)]
    flat.gradients[0] = torch.inf
    flat.gradients[1] = torch.nan
    step(flat, [torch.nan, 1.0, 1.0], 1e-2, 2, settings, apply=False)
    for buffer, kept in zip((flat.master, flat.momentum, flat.variance), before, strict=True):
        assert torch.equal(buffer, kept)


def test_one_gradient_is_added_to_by_autograd_itself():
    named, flat = make(tasks=1, deposit=False)
    (named["a.bias"].sum() * 3).backward()
    entry = next(entry for entry in flat.entries if entry.name == "a.bias")
    assert torch.equal(flat.view(flat.gradients, entry)[0], torch.full((40,), 3.0))
