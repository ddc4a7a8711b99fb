"""The wrappers of optimizers against the literal algorithms, vector by vector."""

import copy
import doctest

import pytest
import torch

from concord.kernels.dispatch import using_kernels
from concord.kernels.tolerances import TOLERANCES
from concord.train.surgery import GradVac, PCGrad, Surgery
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.train.literal_surgery import OPTIMIZERS, batches, flat, literal, network, train_on, wrapped


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("scope", "reduction", "tasks"),
    [("all", "mean", 2), ("all", "sum", 3), ("shared", "mean", 3), ("shared", "sum", 2)],
)
@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_a_hundred_steps_are_those_of_the_literal_algorithm(method, scope, reduction, tasks, optimizer):
    model = network(tasks)
    start, other = flat(model), copy.deepcopy(model)
    surgery = wrapped(method, model, optimizer, scope=scope, reduction=reduction)
    reference, plain = literal(method, other, tasks, scope, reduction), OPTIMIZERS[optimizer](other.parameters())
    for batch in batches(100):
        train_on(surgery, model, batch)
        for parameter, gradient in zip(other.parameters(), reference.gradients(other.losses(batch)), strict=True):
            parameter.grad = gradient
        plain.step()
    assert_close(flat(model) - start, flat(other) - start, 1e-5)
    if method is GradVac:
        assert_close(surgery.state_dict()["surgery"]["targets"][0], reference.targets, 1e-5)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_layers_of_different_dtypes(method, scope, kernels):
    model = network(3, adapter_dtype=torch.bfloat16)
    surgery, reference = wrapped(method, model, scope=scope), literal(method, model, 3, scope)
    with using_kernels(kernels):
        surgery.pc_backward(model.losses(batches(1)[0]))
    for parameter, expected in zip(model.parameters(), reference.gradients(model.losses(batches(1)[0])), strict=True):
        if expected is None:
            assert parameter.grad is None
        else:
            assert parameter.grad.dtype == parameter.dtype
            assert_close(parameter.grad, expected, TOLERANCES[parameter.dtype])


def test_conflicts_occur_and_projection_changes_the_trunk_but_no_head_in_scope_shared():
    model = network(2)
    surgery = wrapped(PCGrad, model)
    trunk_changes = 0
    for batch in batches(20):
        train_on(surgery, model, batch)
        plain = torch.autograd.grad(sum(model.losses(batch)), list(model.parameters()), allow_unused=True)
        surgery.zero_grad()
        surgery.pc_backward(model.losses(batch))
        for (name, parameter), gradient in zip(model.named_parameters(), plain, strict=True):
            if name.startswith("trunk.weight"):
                trunk_changes += bool((parameter.grad - gradient / 2).norm() > 1e-3 * gradient.norm())
            elif name.startswith(("adapter", "heads")):
                assert_close(parameter.grad, gradient, TOLERANCES[torch.float32])
            elif name.startswith("rest"):
                assert parameter.grad is None
    assert trunk_changes > 0


@pytest.mark.parametrize("scope", ["shared", "all"])
def test_tasks_that_do_not_conflict_get_their_plain_mean(scope):
    weight = torch.randn(8, device=DEVICE, requires_grad=True)
    surgery = PCGrad(torch.optim.SGD([weight], lr=1.0), scope=scope)
    first = torch.rand(8, device=DEVICE)
    surgery.pc_backward([(weight * first).sum(), (weight * 3 * first).sum()])
    assert_close(weight.grad, 2 * first, TOLERANCES[torch.float32])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_single_task_keeps_its_gradient(reduction):
    model = network(1)
    surgery = wrapped(PCGrad, model, reduction=reduction)
    surgery.pc_backward(model.losses(batches(1)[0]))
    gradients = torch.autograd.grad(model.losses(batches(1)[0])[0], [model.trunk.weight, model.heads[0].weight])
    assert torch.equal(model.trunk.weight.grad, gradients[0])
    assert torch.equal(model.heads[0].weight.grad, gradients[1])


def test_in_scope_shared_tasks_without_a_common_parameter_get_their_own_gradients():
    first, second = (torch.ones(3, device=DEVICE, requires_grad=True) for _ in range(2))
    surgery = PCGrad(torch.optim.SGD([first, second], lr=1.0))
    surgery.pc_backward([first.sum(), -2 * second.sum()])
    assert first.grad.tolist() == [1.0] * 3
    assert second.grad.tolist() == [-2.0] * 3


def test_merged_gradients_of_several_calls_add_up_until_the_step():
    model = network(2)
    surgery, reference = wrapped(PCGrad, model), literal(PCGrad, model)
    expected = []
    for batch in batches(2):
        surgery.pc_backward(model.losses(batch))
        expected.append(reference.gradients(model.losses(batch)))
    for parameter, first, second in zip(model.parameters(), *expected, strict=True):
        if first is not None:
            assert_close(parameter.grad, first + second, TOLERANCES[torch.float32])
    surgery.step()
    surgery.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_loss_scaling_leaves_the_training_as_it_is(method):
    models = network(2), network(2)
    start = flat(models[0])
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4096.0, growth_interval=5)
    runs = wrapped(method, models[0], scaler=scaler), wrapped(method, models[1])
    for batch in batches(20):
        for surgery, model in zip(runs, models, strict=True):
            train_on(surgery, model, batch)
    assert scaler.get_scale() == 4096.0 * 2**4
    assert_close(flat(models[0]) - start, flat(models[1]) - start, 1e-5)


@pytest.mark.parametrize("scope", ["shared", "all"])
def test_an_overflow_skips_the_step_halves_the_scale_and_leaves_the_targets(scope):
    model = network(2)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)
    surgery = wrapped(GradVac, model, "adam", scope=scope, scaler=scaler)
    first, second, third = batches(3)
    train_on(surgery, model, first)
    before, targets = flat(model), surgery.state_dict()["surgery"]["targets"].clone()
    assert targets.any()
    surgery.zero_grad()
    losses = model.losses(second)
    surgery.pc_backward([losses[0], losses[1] * torch.inf])
    surgery.step()
    assert scaler.get_scale() == 512.0
    assert torch.equal(flat(model), before)
    assert torch.equal(surgery.state_dict()["surgery"]["targets"], targets)
    train_on(surgery, model, third)
    assert scaler.get_scale() == 512.0
    assert torch.isfinite(flat(model)).all()
    assert not torch.equal(flat(model), before)
    assert not torch.equal(surgery.state_dict()["surgery"]["targets"], targets)


def test_a_gradient_that_is_infinite_throughout_leaves_the_targets():
    """Its cosine with another is infinity by infinity; the overflow above yields gradients that are no numbers."""
    weight = torch.ones(3, device=DEVICE, requires_grad=True)
    surgery = GradVac(OPTIMIZERS["sgd"]([weight]))
    surgery.pc_backward([weight.sum(), weight.sum()])
    targets = surgery.state_dict()["surgery"]["targets"].clone()
    assert targets.any()
    surgery.pc_backward([weight.sum(), (weight * torch.inf).sum()])
    assert torch.equal(surgery.state_dict()["surgery"]["targets"], targets)
    assert not torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_a_run_that_is_saved_and_loaded_continues_bit_for_bit(method, tmp_path):
    model = network(3)
    surgery = wrapped(method, model, "adam")
    first, second = batches(20).chunk(2)
    for batch in first:
        train_on(surgery, model, batch)
    torch.save(surgery.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(model)
    resumed = wrapped(method, other, "adam")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    for batch in second:
        train_on(surgery, model, batch)
        train_on(resumed, other, batch)
    assert torch.equal(flat(model), flat(other))


def test_runs_of_another_seed_have_other_orders():
    found = []
    for seed in (1, 2):
        model = network(3)
        surgery = PCGrad(OPTIMIZERS["sgd"](model.parameters()), seed=seed, scope="all", allow_unused=True)
        for batch in batches(10):
            train_on(surgery, model, batch)
        found.append(flat(model))
    assert not torch.equal(*found)


def test_the_wrapped_optimizer_and_its_groups_can_be_reached():
    optimizer = OPTIMIZERS["sgd"]([torch.ones(1, requires_grad=True)])
    surgery = PCGrad(optimizer)
    assert surgery.optimizer is optimizer
    assert surgery.param_groups is optimizer.param_groups


def test_the_graphs_of_the_losses_are_freed():
    weight = torch.ones(3, device=DEVICE, requires_grad=True)
    surgery = PCGrad(OPTIMIZERS["sgd"]([weight]))
    losses = [weight.square().sum()] * 2
    surgery.pc_backward(losses)
    with pytest.raises(RuntimeError, match="second time"):
        surgery.pc_backward(losses)


@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_nothing_is_read_on_the_host(method, scope):
    """A meta tensor has no values: whatever asks for one fails."""
    model = network(3).to("meta")
    surgery = wrapped(method, model, scope=scope)
    for _ in range(2):
        surgery.pc_backward(model.losses(torch.zeros(16, 6, device="meta")))
        surgery.step()
    assert model.trunk.weight.grad.is_meta


def test_an_optimizer_whose_parameters_are_all_frozen_is_refused():
    weight, frozen = torch.ones(3, requires_grad=True), torch.ones(3)
    with pytest.raises(ValueError, match="no parameter of the optimizer requires a gradient"):
        PCGrad(OPTIMIZERS["sgd"]([frozen])).pc_backward([weight.sum()])


@pytest.mark.parametrize("options", [{"reduction": "median"}, {"scope": "heads"}])
def test_an_unknown_option_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*: expected one of"):
        PCGrad(OPTIMIZERS["sgd"]([torch.ones(1, requires_grad=True)]), **options)


def test_the_documented_example_runs():
    (example,) = doctest.DocTestFinder(recurse=False).find(Surgery, "Surgery", globs={})
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    # Targets of mean square 1 each, learned from 32 inputs.
    assert sum(example.globs["losses"]) < 1.5
