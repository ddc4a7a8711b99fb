"""The plan of a step: the kernel against the torch reference, and what both must do, whatever the gradients."""

from dataclasses import fields, replace

import pytest
import torch

from concord.kernels.dispatch import using_kernels
from concord.kernels.surgery.plan import Rates, SurgerySettings, new_surgery_state, plan_update
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE

SETTINGS = SurgerySettings(method="pcgrad", max_norm=1.0, weight_decay=0.1)


@pytest.fixture(params=["torch", "triton"])
def kernels(request):
    with using_kernels(request.param):
        yield


def gradients_of(tasks, blocks, seed, scale=1.0):
    """Task gradients [blocks, T, 9] that conflict often, and their Gram matrices."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(blocks, tasks, 9, generator=generator, dtype=torch.float64) * scale
    return gradients, (gradients @ gradients.mT).to(DEVICE)


def rates_of(blocks, heads, factor=0.5):
    return Rates(
        shared=torch.linspace(1e-4, 2e-4, blocks).to(DEVICE),
        private=torch.linspace(1e-3, 3e-3, heads).to(DEVICE),
        factor=torch.tensor(factor, device=DEVICE),
    )


def plan(settings, state, gram, seed, *, heads=None, given=None, squares=None):
    blocks, tasks, _ = gram.shape
    heads = tasks if heads is None else heads
    if squares is None:
        squares = torch.linspace(0.1, 2.0, heads, dtype=torch.float64)
    return plan_update(
        gram,
        squares.to(DEVICE),
        torch.arange(heads, dtype=torch.int32, device=DEVICE) % tasks,
        rates_of(blocks, heads),
        torch.tensor(seed, device=DEVICE),
        settings,
        state,
        given,
    )


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, method="none", max_norm=0.0),
        replace(SETTINGS, method="gradvac", mean=True, gradvac_beta=0.3),
        replace(SETTINGS, by_block=True),
        replace(SETTINGS, method="gradvac", by_block=True, gradvac_beta=0.5),
        replace(SETTINGS, private_norms=True, mean=True, scaling=True),
        replace(SETTINGS, method="gradvac", private_norms=True),
    ],
    ids=lambda settings: f"{settings.method}-{settings.by_block}-{settings.private_norms}",
)
@pytest.mark.parametrize(("tasks", "blocks"), [(1, 1), (2, 3), (3, 20), (5, 2), (8, 4), (16, 2)])
def test_the_kernel_plans_what_the_reference_plans(settings, tasks, blocks):
    states = [new_surgery_state(settings, tasks, blocks, tasks, DEVICE) for _ in range(2)]
    for step in range(4):
        _, gram = gradients_of(tasks, blocks, step)
        if step == 2:
            gram[-1, 0, 0] = torch.inf
        plans = []
        for kernels, state in zip(("torch", "triton"), states, strict=True):
            with using_kernels(kernels):
                plans.append(plan(settings, state, gram, step))
        for field in fields(plans[0]):
            expected, found = (getattr(one, field.name) for one in plans)
            assert found.shape == expected.shape, field.name
            assert found.dtype == expected.dtype, field.name
            if expected.dtype == torch.bool:
                assert torch.equal(expected, found)
                assert expected == (step != 2)
            elif step != 2:
                assert_close(found, expected, TOLERANCES[found.dtype])
        for name, expected in states[0].tensors().items():
            assert_close(states[1].tensors()[name], expected, TOLERANCES[torch.float64])


@pytest.mark.parametrize("by_block", [False, True])
@pytest.mark.usefixtures("kernels")
def test_given_coefficients_are_taken_as_they_are(by_block):
    settings = replace(SETTINGS, method="given", by_block=by_block)
    _, gram = gradients_of(3, 4, 1)
    given = torch.rand(4 if by_block else 1, 3, dtype=torch.float64, device=DEVICE)
    found = plan(settings, new_surgery_state(settings, 3, 4, 3, DEVICE), gram, 1, given=given)
    assert torch.equal(found.coefficients, given.float().expand(4, 3))


@pytest.mark.usefixtures("kernels")
def test_two_tasks_meet_where_both_have_a_gradient():
    gram = (torch.full((2, 3, 3), 0.5, dtype=torch.float64) + torch.eye(3)).to(DEVICE)
    gram[0, 1] = gram[0, :, 1] = 0
    gram[:, 2] = gram[:, :, 2] = 0
    state = new_surgery_state(SETTINGS, 3, 2, 3, DEVICE)
    for _ in range(2):
        plan(SETTINGS, state, gram, 1)
    first, both = [[2, 0, 0], [0, 0, 0], [0, 0, 0]], [[2, 2, 0], [2, 2, 0], [0, 0, 0]]
    assert state.meetings.tolist() == [first, both, both]


@pytest.mark.usefixtures("kernels")
def test_without_conflict_the_update_is_the_plain_sum_and_nothing_counts_as_changed():
    gram = torch.full((2, 3, 3), 0.5, dtype=torch.float64, device=DEVICE) + torch.eye(3, device=DEVICE)
    state = new_surgery_state(SETTINGS, 3, 2, 3, DEVICE)
    found = plan(SETTINGS, state, gram, 1)
    assert torch.equal(found.coefficients, torch.ones(2, 3, device=DEVICE))
    assert not state.conflicts.any()
    assert not state.changes.any()
    assert_close(state.norms, gram.new_tensor([1.5, 1.5, 3.0]).sqrt()[:, None].expand(3, 3), 1e-12)


@pytest.mark.parametrize("scale", [0.05, 20.0])
@pytest.mark.usefixtures("kernels")
def test_scaling_one_tasks_gradient_scales_what_is_left_of_it_and_what_it_takes_away_stays(scale):
    # g' = D g: row i's coefficients over the scaled originals are D a D^-1, so c'_j d_j sums scaled rows.
    gradients, gram = gradients_of(2, 1, 3)
    gradients[0, 1] = -0.4 * gradients[0, 0] + gradients[0, 1] * 0.1
    gram = (gradients @ gradients.mT).to(DEVICE)
    first = plan(SETTINGS, new_surgery_state(SETTINGS, 2, 1, 2, DEVICE), gram, 1).coefficients[0].double().cpu()
    factors = torch.tensor([1.0, scale], dtype=torch.float64, device=DEVICE)
    scaled = gram * factors[:, None] * factors
    second = plan(SETTINGS, new_surgery_state(SETTINGS, 2, 1, 2, DEVICE), scaled, 1).coefficients[0].double().cpu()
    # c_0 = 1 + share that row 1 gives to g_0, which grows with g_1; c_1 = 1 + share of row 0, which shrinks.
    assert_close((second[0] - 1) / scale, first[0] - 1, TOLERANCES[torch.float32])
    assert_close((second[1] - 1) * scale, first[1] - 1, TOLERANCES[torch.float32])


@pytest.mark.usefixtures("kernels")
def test_a_gradient_of_zeros_and_an_absent_task_are_left_alone():
    gradients, _ = gradients_of(3, 2, 4)
    gradients[:, 1] = 0
    gram = (gradients @ gradients.mT).to(DEVICE)
    for method in ("pcgrad", "gradvac"):
        settings = replace(SETTINGS, method=method, gradvac_beta=0.5)
        state = new_surgery_state(settings, 3, 2, 3, DEVICE)
        found = plan(settings, state, gram, 1)
        assert found.coefficients.isfinite().all()
        assert (found.coefficients[:, 1] == 1).all()
        assert not state.targets[:, 1].any()
        assert not state.targets[:, :, 1].any()
        zeros = plan(settings, state, torch.zeros_like(gram), 2)
        assert (zeros.coefficients == 1).all()


@pytest.mark.usefixtures("kernels")
def test_a_block_without_a_gradient_or_a_rate_rests_and_its_bias_correction_starts_when_it_moves():
    _, gram = gradients_of(3, 4, 1)
    squares = torch.tensor([0.5, 0.0, 0.3], dtype=torch.float64)
    rates = rates_of(4, 3, factor=1.0)
    rates.shared[3] = 0
    state = new_surgery_state(SETTINGS, 3, 4, 3, DEVICE)

    def step(gram, squares, number):
        tasks, seed = torch.arange(3, dtype=torch.int32, device=DEVICE), torch.tensor(number, device=DEVICE)
        return plan_update(gram, squares.to(DEVICE), tasks, rates, seed, SETTINGS, state)

    resting = gram.clone()
    resting[1] = 0
    for number in range(5):
        found = step(resting, squares, number)
        assert found.apply
        for sizes, shrinks, at in (
            (found.step_sizes, found.shrinks, [1, 3]),
            (found.private_step_sizes, found.private_shrinks, [1]),
        ):
            assert (sizes[at] == 0).all()
            assert (shrinks[at] == 1).all()
            assert (sizes != 0).sum() == (shrinks != 1).sum() == len(sizes) - len(at)
    first, fifth = ((1 - 0.999**steps) ** 0.5 / (1 - 0.9**steps) for steps in (1, 6))
    found = step(gram, torch.ones(3, dtype=torch.float64), 5)
    expected = torch.tensor([fifth, first, fifth, 0.0], device=DEVICE) * rates.shared
    assert_close(found.step_sizes, expected, 1e-6)
    expected = torch.tensor([fifth, first, fifth], device=DEVICE) * rates.private
    assert_close(found.private_step_sizes, expected, 1e-6)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.usefixtures("kernels")
def test_an_overflow_halves_the_loss_scale_and_leaves_the_rest_of_the_state(value):
    settings = replace(SETTINGS, method="gradvac", scaling=True, gradvac_beta=0.5)
    state = new_surgery_state(settings, 3, 2, 3, DEVICE)
    plan(settings, state, gradients_of(3, 2, 1)[1], 1)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    assert before["targets"].any()
    _, gram = gradients_of(3, 2, 2)
    gram[1, 2, 2] = value
    assert not plan(settings, state, gram, 2).apply
    after = dict(state.tensors())
    assert after.pop("loss_scale") == before.pop("loss_scale") / 2
    assert after.pop("skipped_steps") == before.pop("skipped_steps") + 1
    assert after.pop("steps_since_overflow") == 0
    before.pop("steps_since_overflow")
    assert after.pop("skipped_in_row").tolist() == [1, 2, 2]
    assert not before.pop("skipped_in_row").any()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    bad = torch.tensor([0.1, value, 0.2], dtype=torch.float64)
    assert not plan(settings, state, gradients_of(3, 2, 3)[1], 3, squares=bad).apply
    assert plan(settings, state, gradients_of(3, 2, 4)[1], 4).apply
    assert state.targets.isfinite().all()


@pytest.mark.usefixtures("kernels")
def test_skipped_steps_in_a_row_are_counted_with_the_first_of_them_and_its_task():
    state = new_surgery_state(SETTINGS, 3, 2, 3, DEVICE)
    sound, squares = gradients_of(3, 2, 1)[1], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    last, shared, both = sound.clone(), sound.clone(), squares.clone()
    last[1, 2, 2] = torch.nan
    shared[:, 1, 1] = torch.inf
    both[:2] = torch.nan
    found = []
    for step, (gram, own) in enumerate(
        [(last, squares), (sound, squares), (shared, squares), (sound, both), (last, both), (sound, squares)]
    ):
        plan(SETTINGS, state, gram, step, squares=own)
        found.append(state.skipped_in_row.tolist())
    assert found == [[1, 1, 2], [0, 0, 0], [1, 3, 1], [2, 3, 1], [3, 3, 1], [0, 0, 0]]
    plan(SETTINGS, state, sound, 6, squares=both)
    assert state.skipped_in_row.tolist() == [1, 7, 0]
    assert (state.applied_steps, state.skipped_steps) == (2, 5)


@pytest.mark.usefixtures("kernels")
def test_the_loss_scale_grows_after_its_interval_and_cancels_out(monkeypatch):
    monkeypatch.setattr("concord.kernels.surgery.plan._GROWTH_INTERVAL", 3)
    scaled, plain = replace(SETTINGS, scaling=True), SETTINGS
    states = [new_surgery_state(settings, 3, 2, 3, DEVICE) for settings in (scaled, plain)]
    scales = []
    for step in range(4):
        scale = states[0].loss_scale.double()
        _, gram = gradients_of(3, 2, step)
        squares = torch.linspace(0.1, 2.0, 3, dtype=torch.float64)
        with_scale = plan(scaled, states[0], gram * scale**2, step, squares=squares.to(DEVICE) * scale**2)
        without = plan(plain, states[1], gram, step, squares=squares)
        assert_close(with_scale.factor * scale, without.factor.double(), 1e-6)
        for name in ("coefficients", "gram", "merged_norm", "step_sizes"):
            assert_close(getattr(with_scale, name), getattr(without, name), 1e-6)
        scales.append(states[0].loss_scale.item() / 2**16)
    assert scales == [1, 1, 2, 2]


@pytest.mark.usefixtures("kernels")
def test_clipping_brings_the_norm_of_the_whole_update_to_its_limit():
    gradients, gram = gradients_of(2, 3, 5, scale=10.0)
    squares = torch.tensor([4.0, 9.0], dtype=torch.float64)
    for private_norms in (False, True):
        settings = replace(SETTINGS, max_norm=0.25, private_norms=private_norms, mean=True)
        found = plan(settings, new_surgery_state(settings, 2, 3, 2, DEVICE), gram, 5, squares=squares)
        shared = (found.coefficients.double().cpu()[:, :, None] * gradients).sum(1)
        private = found.private_coefficients[:, 0].double().cpu().square() * squares
        norm = (shared.square().sum() + private.sum()).sqrt()
        assert_close(found.merged_norm.cpu(), norm, 1e-6)
        assert_close(found.factor.double().cpu() * norm, torch.tensor(0.25, dtype=torch.float64), 1e-6)


def test_settings_that_contradict_each_other_and_too_many_tasks_are_refused():
    with pytest.raises(ValueError, match="private_norms"):
        SurgerySettings(by_block=True, private_norms=True)
    with pytest.raises(ValueError, match="expected one of none, pcgrad"):
        SurgerySettings(method="pcgard")
    with pytest.raises(ValueError, match="17 tasks"):
        new_surgery_state(SETTINGS, 17, 1, 17, "cpu")
