"""Losses as loops have them, and the ways in which one task's gradients are had."""

import warnings
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from concord.kernels.tolerances import TOLERANCES
from concord.train.surgery import GradVac, PCGrad, Surgery
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.train.literal_surgery import OPTIMIZERS, batches, literal, network, wrapped

FP32 = TOLERANCES[torch.float32]
NAMES = ("a", "b", "c")


def one_weight(value=1.0):
    return torch.full((3,), value, device=DEVICE, requires_grad=True)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_by_one(model, batch, tasks=3):
    """Functions that give the tasks' losses, each with a graph of its own."""
    return [lambda task=task: model.losses(batch)[task] for task in range(tasks)]


FORMS = {
    "a tuple": lambda model, batch: tuple(model.losses(batch)),
    "functions": one_by_one,
    "a generator": lambda model, batch: (function() for function in one_by_one(model, batch)),
    "a generator of functions": lambda model, batch: iter(one_by_one(model, batch)),
    "a mapping": lambda model, batch: dict(zip(NAMES, model.losses(batch), strict=True)),
    "functions by name": lambda model, batch: dict(zip(NAMES, one_by_one(model, batch), strict=True)),
    "one function among losses": lambda model, batch: [*model.losses(batch)[:2], one_by_one(model, batch)[2]],
    "a function before losses": lambda model, batch: [one_by_one(model, batch)[0], *model.losses(batch)[1:]],
}


@pytest.mark.parametrize("form", FORMS)
def test_losses_in_every_form_are_merged_as_the_literal_algorithm_does(form):
    model, (batch,) = network(3), batches(1)
    wrapped(PCGrad, model).pc_backward(FORMS[form](model, batch))
    expected = literal(PCGrad, model, 3).gradients(model.losses(batch))
    for parameter, exact in zip(model.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (exact is None)
        if exact is not None:
            assert_close(parameter.grad, exact, FP32)


@pytest.mark.parametrize("form", ["functions", "a generator", "a generator of functions", "functions by name"])
def test_one_graph_is_alive_at_a_time(form):
    alive, seen = set(), []

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(id(self))

        def __del__(self):
            alive.discard(id(self))

    model, (batch,) = network(3), batches(1)
    losses = model.losses

    def counted(batch):
        seen.append(len(alive))
        return losses(batch)

    model.losses = counted
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        wrapped(PCGrad, model).pc_backward(FORMS[form](model, batch))
    assert seen == [0, 0, 0]


def test_a_mapping_is_read_by_name_and_its_tasks_keep_their_places():
    model, (first, second) = network(3), batches(2)
    runs = wrapped(GradVac, model), wrapped(GradVac, model)
    for batch in (first, second):
        losses = dict(zip(NAMES, model.losses(batch), strict=True))
        runs[0].pc_backward(losses, retain_graph=True)
        kept = gradients(model)
        runs[0].zero_grad()
        turned = {name: losses[name] for name in (NAMES if batch is first else reversed(NAMES))}
        runs[1].pc_backward(turned)
        for name, gradient in gradients(model).items():
            assert torch.equal(gradient, kept[name])
        runs[1].zero_grad()
    with pytest.raises(ValueError, match="losses have a task d: expected one of a, b, c"):
        runs[0].pc_backward({"d": model.losses(first)[0]})


ABSENT = {
    "None": lambda: None,
    "zero": lambda: 0.0,
    "a tensor without a graph": lambda: torch.tensor(0.0),
    "a function that gives None": lambda: lambda: None,
}


@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("form", ABSENT)
@pytest.mark.parametrize("method", [PCGrad, GradVac])
@pytest.mark.filterwarnings("ignore:loss 1 has no graph")
def test_an_absent_task_has_a_gradient_of_zero_and_meets_nobody(method, form, scope):
    model, (first, second) = network(3), batches(2)
    surgery, reference = wrapped(method, model, scope=scope), literal(method, model, 3, scope)
    surgery.pc_backward(model.losses(first))
    reference.gradients(model.losses(first))
    surgery.zero_grad()
    losses = model.losses(second)
    surgery.pc_backward([losses[0], ABSENT[form](), losses[2]])
    assert surgery.statistics().absent == ("1",)
    losses = model.losses(second)
    expected = reference.gradients([losses[0], None, losses[2]])
    for parameter, exact in zip(model.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (exact is None)
        if exact is not None:
            assert_close(parameter.grad, exact, FP32)
    if method is GradVac:
        assert_close(surgery.state_dict()["surgery"]["targets"][0], reference.targets, 1e-5)


@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_a_task_that_a_mapping_lacks_is_absent(method):
    model, (first, second) = network(3), batches(2)
    found = []
    for leave_out in (True, False):
        surgery = wrapped(method, model)
        surgery.pc_backward(dict(zip(NAMES, model.losses(first), strict=True)))
        surgery.zero_grad()
        losses = dict(zip(NAMES, model.losses(second), strict=True)) | {"b": None}
        surgery.pc_backward({name: loss for name, loss in losses.items() if loss is not None or not leave_out})
        assert surgery.statistics().absent == ("b",)
        found.append(gradients(model))
        surgery.zero_grad()
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


ZERO = {
    "a mean over no rows": lambda features, head: head(features[:0]).square().mean(),
    "a sum over no rows": lambda features, head: head(features[:0]).square().sum(),
    "a product with zero": lambda features, head: (features * 0).sum(),
}


@pytest.mark.parametrize("form", ZERO)
@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_a_task_whose_gradient_is_zero_is_merged_as_an_absent_one(method, form):
    model, (first, second) = network(3), batches(2)
    surgery, reference = wrapped(method, model), literal(method, model, 3)
    surgery.pc_backward(model.losses(first))
    reference.gradients(model.losses(first))
    surgery.zero_grad()
    losses = model.losses(second)
    surgery.pc_backward([losses[0], ZERO[form](model.trunk(second).tanh(), model.heads[1]), losses[2]])
    losses = model.losses(second)
    for parameter, exact in zip(model.parameters(), reference.gradients([losses[0], None, losses[2]]), strict=True):
        if exact is None:
            assert parameter.grad is None or not parameter.grad.any()
        else:
            assert_close(parameter.grad, exact, FP32)
    if method is GradVac:
        assert_close(surgery.state_dict()["surgery"]["targets"][0], reference.targets, 1e-5)


def test_where_a_task_reaches_is_remembered_while_it_is_absent():
    """A head is not shared because the other task is absent: it has its own gradient, the trunk half of it."""
    model, (batch,) = network(2), batches(1)
    surgery = wrapped(PCGrad, model)
    surgery.pc_backward(model.losses(batch))
    other = wrapped(PCGrad, model)
    other.load_state_dict(surgery.state_dict())
    for run in (surgery, other):
        run.zero_grad()
        run.pc_backward([model.losses(batch)[0], None])
        alone = torch.autograd.grad(model.losses(batch)[0], [model.trunk.weight, model.heads[0].weight])
        assert_close(model.trunk.weight.grad, alone[0] / 2, FP32)
        assert_close(model.heads[0].weight.grad, alone[1], FP32)


def test_a_loss_without_a_graph_is_told_once_by_its_task():
    weight = one_weight()
    surgery = PCGrad(OPTIMIZERS["sgd"]([weight]), tasks=["sst", "sts"])
    with pytest.warns(UserWarning, match="loss sts has no graph: the task is taken as absent"):
        surgery.pc_backward([weight.sum(), torch.tensor(0.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery.pc_backward([weight.sum(), torch.tensor(0.0)])
        surgery.pc_backward({"sst": weight.sum()})


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (lambda loss: [], "no losses: expected one a task"),
        (lambda loss: iter([]), "no losses: expected one a task"),
        (lambda loss: {}, "no losses: expected one a task"),
        (lambda loss: [None, 0.0], r"no loss has a graph: all tasks are absent \(0, 1\)"),
        (lambda loss: {1: loss, "1": 3 * loss}, r"tasks \['1', '1'\]: expected different names, one a task"),
        (lambda loss: [loss, loss * torch.ones(2, 3)], r"loss 1 has shape \[2, 3\]: expected a scalar"),
        (lambda loss: iter([loss, loss * torch.ones(2)]), r"loss 1 has shape \[2\]: expected a scalar"),
    ],
)
def test_losses_that_are_none_or_no_scalars_are_refused(losses, reason):
    weight = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=reason):
        PCGrad(OPTIMIZERS["sgd"]([weight])).pc_backward(losses((weight * 2).sum()))
    assert weight.grad is None


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (lambda loss: loss, r"losses are one tensor of shape \[\]: expected one scalar a task"),
        (lambda loss: torch.stack([loss, loss]), r"losses are one tensor of shape \[2\]: expected one scalar a task"),
        (lambda loss: 3, "losses are a int: expected one loss a task"),
        (lambda loss: [loss, 0.5], "loss 1 is the number 0.5: expected a scalar tensor"),
        (lambda loss: [loss, float("nan")], "loss 1 is the number nan: expected a scalar tensor"),
        (lambda loss: [loss, "half"], "loss 1 is a str: expected a scalar tensor"),
    ],
)
def test_losses_that_are_something_else_are_refused(losses, reason):
    weight = torch.ones(3, requires_grad=True)
    with pytest.raises(TypeError, match=reason):
        PCGrad(OPTIMIZERS["sgd"]([weight])).pc_backward(losses(weight.sum()))
    assert weight.grad is None


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", [list, iter])
def test_another_number_of_tasks_is_refused(count, form):
    weight = torch.ones(3, requires_grad=True)
    surgery = PCGrad(OPTIMIZERS["sgd"]([weight]))
    surgery.pc_backward([weight.sum()] * 2)
    before = weight.grad.clone()
    told = "more than 2 losses" if (form, count) == (iter, 3) else f"{count} losses: the tasks so far are 2"
    with pytest.raises(ValueError, match=told):
        surgery.pc_backward(form([(weight * 1).sum() for _ in range(count)]))
    assert torch.equal(weight.grad, before)


def test_a_loss_that_is_no_number_is_seen_in_the_gradients():
    model, (batch,) = network(2), batches(1)
    surgery = wrapped(GradVac, model)
    losses = model.losses(batch)
    surgery.pc_backward([losses[0], losses[1] * torch.nan])
    assert not model.trunk.weight.grad.isfinite().any()
    assert not surgery.state_dict()["surgery"]["targets"].any()


def test_several_wrappers_share_a_graph_that_is_retained():
    model, (batch,) = network(2), batches(1)
    expected = literal(PCGrad, model).gradients(model.losses(batch))
    parts = [
        PCGrad(torch.optim.SGD(module.parameters(), lr=0.1), seed=5, allow_unused=True)
        for module in (model.trunk, model.heads)
    ]
    losses = model.losses(batch)
    parts[0].pc_backward(losses, retain_graph=True)
    assert model.heads[0].weight.grad is None
    parts[1].pc_backward(losses)
    # In scope "shared" it is the trunk's weight and bias alone that surgery concerns.
    for name, exact in zip(dict(model.named_parameters()), expected, strict=True):
        if name.startswith(("trunk", "heads")):
            assert_close(model.get_parameter(name).grad, exact, FP32)
    with pytest.raises(RuntimeError, match="second time"):
        parts[0].pc_backward(losses)


@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_more_tasks_than_the_kernels_take_are_merged_and_that_is_said_once(method):
    tasks = 20
    torch.manual_seed(1)
    weight = torch.randn(30, device=DEVICE, requires_grad=True)
    wanted = torch.randn(tasks, 30, device=DEVICE)

    class Model(torch.nn.Module):
        def parameters(self):
            return iter([weight])

    surgery, reference = wrapped(method, Model()), literal(method, Model(), tasks)
    with pytest.warns(UserWarning, match="20 tasks: the kernels take 16 at most, torch's expressions are used") as told:
        for _ in range(2):
            surgery.zero_grad()
            surgery.pc_backward([(weight - one).square().sum() * (1 + n) for n, one in enumerate(wanted)])
            expected = reference.gradients([(weight - one).square().sum() * (1 + n) for n, one in enumerate(wanted)])
            assert_close(weight.grad, expected[0], 1e-4)
    assert len(told) == 1


def test_a_parameter_that_no_loss_reaches_is_an_error_until_it_is_allowed():
    used, lost, frozen = one_weight(), one_weight(), one_weight().detach()
    surgery = PCGrad(torch.optim.SGD([("used", used), ("lost", lost), ("frozen", frozen)], lr=1.0))
    surgery.pc_backward([used.sum(), None])  # the second may reach it
    with pytest.raises(ValueError, match=r"^parameter lost \[3\] of group 0: no loss reaches what requires a gradient"):
        surgery.pc_backward([used.sum(), used.sum()])
    surgery.pc_backward([used.sum(), lost.sum()])
    surgery.pc_backward([used.sum(), used.sum()])  # it has been reached, and is not asked for again
    PCGrad(torch.optim.SGD([used, lost], lr=1.0), allow_unused=True).pc_backward([used.sum(), used.sum()])


def one_of(losses, task):
    return losses()[task]


def checkpointed(reentrant, tied=False):
    """Losses, parameters, and the tensor by which reentrant checkpointing is made to give gradients."""
    torch.manual_seed(0)
    layer, heads = torch.nn.Linear(4, 4), torch.nn.ModuleList([torch.nn.Linear(4, 1) for _ in range(2)])
    leaf = torch.randn(5, 4, requires_grad=True)

    def losses():
        hidden = checkpoint(layer, leaf, use_reentrant=True) if reentrant else layer(leaf)
        hidden = layer(hidden) if tied else hidden
        return [(head(hidden) - task).square().mean() for task, head in enumerate(heads)]

    return losses, [*layer.parameters(), *heads.parameters()], leaf


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_what_reentrant_checkpointing_hides_is_trained(tied, one_at_a_time):
    found = []
    for reentrant in (True, False):
        losses, parameters, leaf = checkpointed(reentrant, tied)
        surgery = PCGrad(torch.optim.SGD(parameters, lr=0.1))
        for _ in range(2):  # what is there already is kept, and added to
            surgery.pc_backward([partial(one_of, losses, task) for task in range(2)] if one_at_a_time else losses())
        assert leaf.grad is None, "it is no parameter of the optimizer"
        found.append([parameter.grad for parameter in parameters])
    for hidden, plain in zip(*found, strict=True):
        assert_close(hidden, plain, FP32)


def test_gradients_may_be_taken_by_a_backward_in_any_case():
    model, (batch,) = network(3), batches(1)
    found = []
    for by_backward in (True, False):
        surgery = wrapped(PCGrad, model, by_backward=by_backward)
        surgery.pc_backward(model.losses(batch))
        surgery.pc_backward(model.losses(batch))
        found.append(gradients(model))
        surgery.zero_grad()
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name])


@pytest.mark.parametrize("by_backward", [False, True])
def test_what_waits_for_a_gradient_is_told_of_the_merged_one_alone(by_backward):
    weight, told = one_weight(), []
    weight.register_post_accumulate_grad_hook(lambda parameter: told.append(parameter.grad.tolist()))
    surgery = Surgery(torch.optim.SGD([weight], lr=1.0), rule="none", reduction="sum", by_backward=by_backward)
    surgery.pc_backward([weight.sum(), 2 * weight.sum()])
    assert told == [[3.0] * 3]


def test_a_backward_that_fails_leaves_the_gradients_as_they_were():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor):
            return tensor.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("failed")

    weight, told = one_weight(), []
    weight.grad = torch.ones_like(weight)
    weight.register_post_accumulate_grad_hook(told.append)
    surgery = PCGrad(torch.optim.SGD([weight], lr=1.0), by_backward=True)
    with pytest.raises(RuntimeError, match="failed"):
        surgery.pc_backward([weight.sum(), Fails.apply(weight).sum()])
    assert weight.grad.tolist() == [1.0] * 3
    weight.sum().backward()
    assert len(told) == 1


def test_values_of_a_mapping_are_losses_that_are_there_already():
    weight = torch.ones(3, requires_grad=True)
    features = weight * 2
    PCGrad(OPTIMIZERS["sgd"]([weight])).pc_backward({"a": features.sum(), "b": features.mean()}.values())
    assert weight.grad.tolist() == pytest.approx([(2 + 2 / 3) / 2] * 3)


def test_a_parameter_that_stands_in_a_group_twice_is_one():
    weight = torch.ones(3, requires_grad=True)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = torch.optim.SGD([weight, weight])
    PCGrad(optimizer).pc_backward([weight.sum()])
    assert weight.grad.tolist() == [1.0] * 3


def test_hooks_of_parameters_of_another_optimizer_are_not_called():
    trunk, head = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    called = []
    trunk.register_post_accumulate_grad_hook(called.append)
    PCGrad(OPTIMIZERS["sgd"]([head]), by_backward=True).pc_backward([(trunk * head).sum(), (trunk * head).mean()])
    assert called == []
    assert trunk.grad is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tasks": "ab"}, "tasks ab: expected different names"),
        ({"tasks": ["x", "x"]}, "expected different names"),
        ({"seed": -1}, "seed -1: expected a whole number from 0"),
        ({"seed": 2**31}, "expected a whole number from 0"),
        ({"seed": 1.5}, "seed 1.5: expected a whole number"),
        ({"rule": "gradvac", "beta": 1.0}, "beta 1.0: expected a number from 0, below 1"),
        ({"rule": "gradvac", "beta": float("nan")}, "beta nan: expected a number"),
    ],
)
def test_options_out_of_range_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Surgery(OPTIMIZERS["sgd"]([torch.ones(3, requires_grad=True)]), **options)


def test_a_change_of_gradients_that_cancel_is_without_bound():
    weight = torch.ones(2, requires_grad=True)
    first = Surgery(OPTIMIZERS["sgd"]([weight]), rule=lambda gram: torch.tensor([[1.0, 0.0]] * len(gram)))
    first.pc_backward([weight.sum(), -weight.sum()])
    assert first.statistics().change == float("inf")
