"""What an optimizer's step leaves as it is (frozen blocks, heads of absent tasks), and the average of the weights."""

import pytest
import torch

from concord.kernels.surgery.plan import plan_update
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.samples import random_batch
from tests.train.test_optimizer import RATE, backward, make_model, make_optimizer, step, task_losses


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "gradvac"])
def test_frozen_blocks_stay_as_they_are_and_move_again_once_thawed(surgery):
    model = make_model()
    optimizer = make_optimizer(model, surgery=surgery)
    blocks = model.shared.block_names
    for frozen, moving in ((blocks, set()), (blocks[1:], {blocks[0]}), ((), set(blocks))):
        optimizer.freeze(frozen)
        for entry in model.shared.entries:
            if blocks[entry.block] in moving:
                model.shared.view(model.shared.gradients, entry).normal_()
        model.private.gradients.normal_()
        before, heads = (
            {name: value.clone() for name, value in model.shared.values().items()},
            model.private.master.clone(),
        )
        step(optimizer, 1)
        moved = {name for name, value in model.shared.values().items() if not torch.equal(value, before[name])}
        assert {model.encoder.blocks()[name] for name in moved} == moving
        assert not torch.equal(model.private.master, heads)
        assert model.private.master.isfinite().all()


def test_after_frozen_steps_a_block_starts_as_one_of_a_new_run_does():
    first = {}
    for frozen_steps in (0, 50):
        model = make_model()
        optimizer = make_optimizer(model, surgery="none", max_norm=0.0)
        optimizer.freeze(model.shared.block_names)
        for number in range(frozen_steps):
            model.private.gradients.normal_()
            step(optimizer, number)
        optimizer.freeze(())
        start = model.shared.master.clone()
        model.shared.gradients.copy_(torch.randn(model.shared.gradients.shape, generator=torch.manual_seed(3)))
        step(optimizer, 1)
        first[frozen_steps] = model.shared.master - start
    assert first[0].any()
    assert torch.equal(first[0], first[50])


def test_the_head_of_a_task_that_a_step_does_not_hold_stays_as_it_is():
    model = make_model()
    optimizer = make_optimizer(model)
    backward(model, optimizer, [1])
    step(optimizer, 1)
    before = {name: value.clone() for name, value in model.private.values().items()}
    optimizer.zero_private_gradients()
    task_losses(model(random_batch((4, 3), 2, device=DEVICE)))["one"].backward()
    step(optimizer, 2)
    unmoved = {name for name, value in model.private.values().items() if torch.equal(value, before[name])}
    assert unmoved == {"two.weight", "two.bias"}
    assert optimizer.state.beta_powers[-2:, 0].tolist() == pytest.approx([0.81, 0.9])


def test_freezing_changes_the_rates_where_they_lie_so_that_captured_steps_see_them(monkeypatch):
    found = []

    def watched(gram, squares, tasks, rates, *more):
        found.append((rates.shared.data_ptr(), rates.shared.tolist()))
        return plan_update(gram, squares, tasks, rates, *more)

    monkeypatch.setattr("concord.train.steps.optimizer.plan_update", watched)
    model = make_model()
    optimizer = make_optimizer(model)
    blocks = model.shared.block_names
    for frozen in ((), blocks, blocks[:1], ()):
        optimizer.freeze(frozen)
        step(optimizer, 1)
    assert len({address for address, _ in found}) == 1
    rates = [RATE] * len(blocks)
    expected = [rates, [0.0] * len(blocks), [0.0, *rates[1:]], rates]
    for (_, values), one in zip(found, expected, strict=True):
        assert values == pytest.approx(one)


def test_the_average_is_that_of_the_weights_themselves_until_its_first_sample():
    model = make_model()
    optimizer = make_optimizer(model)
    optimizer.keep_average(50)  # taken every fifth step
    seen = []
    for number in range(1, 11):
        backward(model, optimizer, [number])
        step(optimizer, number)
        optimizer.average(number)
        seen.append(model.shared.master.clone())
        with optimizer.averaged():
            average = model.shared.master.clone()
        if number <= 5:
            assert torch.equal(average, seen[-1])
    assert_close(average, (seen[4] + seen[9]) / 2, 1e-6)


def test_the_average_forgets_what_lies_before_its_span():
    model = make_model()
    optimizer = make_optimizer(model)
    optimizer.keep_average(10)
    expected = 0.0
    for number in range(1, 41):
        model.shared.master.fill_(float(number))
        optimizer.average(number)
        expected += (number - expected) / min(number, 10)
    with optimizer.averaged():
        assert_close(model.shared.master, torch.full_like(model.shared.master, expected), 1e-5)


def test_freezing_clears_the_gradients_that_no_step_will_write_any_more():
    model = make_model()
    optimizer = make_optimizer(model)
    backward(model, optimizer, [1])
    assert model.shared.gradients.any()
    optimizer.freeze(model.shared.block_names)
    assert not model.shared.gradients.any()
