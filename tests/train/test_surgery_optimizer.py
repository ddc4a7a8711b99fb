"""The wrappers are optimizers: for schedulers, scalers, trainers, checkpoints and copies what a plain one is."""

import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
from transformers.optimization import get_scheduler

from concord.train.surgery import GradVac, PCGrad, Surgery
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.train.literal_surgery import OPTIMIZERS, batches, flat, network, train_on, wrapped

SCHEDULERS = torch.optim.lr_scheduler
INNER = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "fused adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
}


def one_weight():
    return torch.ones(3, device=DEVICE, requires_grad=True)


def test_groups_state_and_defaults_are_those_of_the_wrapped_optimizer():
    model = network(2)
    inner = OPTIMIZERS["adam"](model.parameters())
    surgery = PCGrad(inner, allow_unused=True)
    assert isinstance(surgery, torch.optim.Optimizer)
    train_on(surgery, model, batches(1)[0])
    assert surgery.optimizer is inner
    assert surgery.param_groups is inner.param_groups
    assert surgery.state is inner.state
    assert surgery.state
    assert surgery.defaults is inner.defaults
    inner.load_state_dict(inner.state_dict())  # which gives it new ones
    assert surgery.param_groups is inner.param_groups
    assert surgery.state is inner.state
    surgery.param_groups, surgery.state, surgery.defaults = [], {}, {"lr": 1}
    assert (inner.param_groups, inner.state, inner.defaults) == ([], {}, {"lr": 1})
    assert repr(surgery).startswith("PCGrad (")


def test_a_group_that_is_added_is_trained_and_must_be_used():
    first, second, third = one_weight(), one_weight(), one_weight()
    surgery = PCGrad(torch.optim.SGD([first], lr=1.0))
    surgery.pc_backward([first.sum(), first.sum()])
    surgery.add_param_group({"params": [second], "lr": 0.5})
    assert [group["lr"] for group in surgery.optimizer.param_groups] == [1.0, 0.5]
    surgery.zero_grad()
    surgery.pc_backward([first.sum() + second.sum()] * 2)
    surgery.step()
    assert second.tolist() == [0.5] * 3
    surgery.add_param_group({"params": [third]})
    with pytest.raises(ValueError, match=r"parameter 0 \[3\] of group 2: no loss reaches"):
        surgery.pc_backward([first.sum(), second.sum()])


def test_gradients_are_set_to_zero_or_to_none():
    weight = one_weight()
    surgery = PCGrad(OPTIMIZERS["sgd"]([weight]))
    surgery.pc_backward([weight.sum()])
    surgery.zero_grad(set_to_none=False)
    assert weight.grad.tolist() == [0.0] * 3
    surgery.zero_grad()
    assert weight.grad is None


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: SCHEDULERS.StepLR(optimizer, 2),
        lambda optimizer: SCHEDULERS.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        lambda optimizer: SCHEDULERS.OneCycleLR(optimizer, max_lr=0.1, total_steps=10),
        lambda optimizer: SCHEDULERS.CosineAnnealingWarmRestarts(optimizer, 3),
        lambda optimizer: SCHEDULERS.SequentialLR(
            optimizer,
            [SCHEDULERS.LinearLR(optimizer, total_iters=2), SCHEDULERS.ExponentialLR(optimizer, 0.5)],
            milestones=[2],
        ),
        lambda optimizer: SCHEDULERS.ReduceLROnPlateau(optimizer, patience=0),
        *(
            partial(get_scheduler, name, num_warmup_steps=2, num_training_steps=6)
            for name in ("linear", "cosine", "constant_with_warmup")
        ),
    ],
)
@pytest.mark.parametrize("given", [lambda surgery: surgery, lambda surgery: surgery.optimizer])
def test_schedulers_take_the_wrapper_and_the_wrapped(schedule, given):
    model, other = network(2), network(2)
    surgery, plain = wrapped(PCGrad, model), OPTIMIZERS["sgd"](other.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that of a scheduler which sees no step of its optimizer
        schedulers = schedule(given(surgery)), schedule(plain)
        for batch in batches(6):
            train_on(surgery, model, batch)
            plain.step()
            for scheduler in schedulers:
                scheduler.step(*[1.0] * isinstance(scheduler, SCHEDULERS.ReduceLROnPlateau))
            # Momentum too, which some of them change.
            rates = [[group[key] for key in ("lr", "momentum")] for group in surgery.param_groups]
            assert rates == [[group[key] for key in ("lr", "momentum")] for group in plain.param_groups]


@pytest.mark.parametrize("scaling", [False, True])
def test_hooks_are_called_once_a_step(scaling):
    weight, calls = one_weight(), []
    scaler = torch.amp.GradScaler(DEVICE) if scaling else None
    surgery = PCGrad(OPTIMIZERS["sgd"]([weight]), scaler=scaler)
    surgery.register_step_pre_hook(lambda optimizer, args, kwargs: calls.append(("pre", optimizer)))
    surgery.register_step_post_hook(lambda optimizer, args, kwargs: calls.append(("post", optimizer)))
    surgery.optimizer.register_step_post_hook(lambda optimizer, args, kwargs: calls.append(("inner", optimizer)))
    surgery.pc_backward([weight.sum()])
    surgery.step()
    assert calls == [("pre", surgery), ("inner", surgery.optimizer), ("post", surgery)]


@pytest.mark.parametrize("scaling", [False, True])
def test_a_closure_is_called_before_the_step_and_what_it_gives_is_returned(scaling):
    models = network(2), network(2)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4.0) if scaling else None
    surgery, other = wrapped(PCGrad, models[0], scaler=scaler), wrapped(PCGrad, models[1])
    for batch in batches(3):

        def closure(batch=batch):
            surgery.zero_grad()
            losses = models[0].losses(batch)
            surgery.pc_backward(losses)
            return sum(losses).detach()

        with torch.no_grad():  # as some trainers call it
            assert surgery.step(closure) > 0
        train_on(other, models[1], batch)
    assert_close(flat(models[0]), flat(models[1]), 1e-6)
    surgery.zero_grad()
    assert other.step(lambda: None) is None, "a closure that does nothing, as of a trainer that is told to do so"


ORDERS = {
    "the wrapper's step": lambda scaler, surgery, clip: surgery.step(),
    "the scaler's step": lambda scaler, surgery, clip: (scaler.step(surgery), scaler.update()),
    "the scaler's step of the wrapped": lambda scaler, surgery, clip: (
        scaler.step(surgery.optimizer),
        scaler.update(),
    ),
    "unscaled, the wrapper's step": lambda scaler, surgery, clip: (
        scaler.unscale_(surgery),
        clip(),
        surgery.step(),
    ),
    "unscaled, the scaler's step": lambda scaler, surgery, clip: (
        scaler.unscale_(surgery),
        clip(),
        scaler.step(surgery),
        scaler.update(),
    ),
    "the wrapped unscaled, the wrapper's step": lambda scaler, surgery, clip: (
        scaler.unscale_(surgery.optimizer),
        clip(),
        surgery.step(),
    ),
    "the wrapped unscaled, the scaler's step": lambda scaler, surgery, clip: (
        scaler.unscale_(surgery.optimizer),
        clip(),
        scaler.step(surgery),
        scaler.update(),
    ),
    "unscaled, the scaler's step of the wrapped": lambda scaler, surgery, clip: (
        scaler.unscale_(surgery),
        clip(),
        scaler.step(surgery.optimizer),
        scaler.update(),
    ),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("order", ORDERS)
def test_a_scaler_that_the_wrapper_has_may_be_used_in_any_order(order, inner):
    models = network(2), network(2)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4096.0, growth_interval=3)
    runs = [
        GradVac(INNER[inner](model.parameters()), allow_unused=True, scaler=own)
        for model, own in zip(models, (scaler, None), strict=True)
    ]
    start = flat(models[0])
    for number, batch in enumerate(batches(6)):
        for surgery, model in zip(runs, models, strict=True):
            surgery.zero_grad()
            losses = model.losses(batch)
            if number == 4 and surgery is runs[0]:
                losses[0] = losses[0] * torch.inf
            if number != 4 or surgery is runs[0]:
                surgery.pc_backward(losses)

        def clip(model=models[0], number=number):
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            assert number == 4 or 1e-3 < norm < 10, "unscaled"

        if "unscaled" in order:
            torch.nn.utils.clip_grad_norm_(models[1].parameters(), 0.5)
        ORDERS[order](scaler, runs[0], clip)
        if number != 4:  # an overflow, whose step is skipped
            runs[1].step()
    assert scaler.get_scale() == 4096.0
    assert_close(flat(models[0]) - start, flat(models[1]) - start, 1e-5)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("unscales", [False, True])
def test_a_scaler_of_the_loops_own_is_used_as_with_any_other_optimizer(inner, unscales):
    """Two wrappers share it, as PyTorch documents for several optimizers; losses are scaled by the loop."""
    models = [network(2) for _ in range(3)]
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4096.0, growth_interval=2)
    runs = [PCGrad(INNER[inner](model.parameters()), allow_unused=True) for model in models]
    start = flat(models[0])
    for batch in batches(5):
        for surgery, model in zip(runs, models, strict=True):
            losses = model.losses(batch)
            surgery.zero_grad()
            surgery.pc_backward(losses if surgery is runs[2] else scaler.scale(losses))
        for surgery in runs[:2]:
            if unscales:
                scaler.unscale_(surgery)
            scaler.step(surgery)
        scaler.update()
        runs[2].step()
    assert scaler.get_scale() == 4096.0 * 4
    for model in models[:2]:
        assert_close(flat(model) - start, flat(models[2]) - start, 1e-5)


def test_of_two_wrappers_with_one_scaler_neither_updates_it_before_the_other_has_stepped():
    weights = one_weight(), one_weight()
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0, growth_interval=1)
    runs = [PCGrad(torch.optim.SGD([weight], lr=1.0), scaler=scaler) for weight in weights]
    for surgery, weight in zip(runs, weights, strict=True):
        surgery.pc_backward([weight.sum()])
    with pytest.raises(RuntimeError, match="another optimizer has gradients of the same scaler"):
        runs[0].step()
    for surgery in runs:
        scaler.step(surgery)
    scaler.update()
    assert [weight.tolist() for weight in weights] == [[0.0] * 3] * 2
    assert scaler.get_scale() == 2048.0


def test_an_optimizer_whose_step_takes_the_scaler_is_given_unscaled_gradients():
    class TakesScaler(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure=None, *, grad_scaler=None):
            assert grad_scaler is None
            return super().step(closure)

    weight = one_weight()
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)
    surgery = PCGrad(TakesScaler([weight], lr=1.0))
    surgery.pc_backward([scaler.scale(weight.sum())])
    scaler.step(surgery)
    scaler.update()
    assert weight.tolist() == [0.0] * 3


def test_a_scaler_that_is_switched_off_changes_nothing():
    weight = one_weight()
    surgery = PCGrad(torch.optim.SGD([weight], lr=1.0), scaler=torch.amp.GradScaler(DEVICE, enabled=False))
    surgery.pc_backward([weight.sum()])
    assert surgery.step() is None
    assert weight.tolist() == [0.0] * 3


@pytest.mark.parametrize("accumulated", [1, 4])
def test_losses_that_are_scaled_already_are_not_scaled_again(accumulated):
    weight = one_weight()
    scaler = torch.amp.GradScaler(DEVICE)
    surgery = PCGrad(torch.optim.SGD([weight], lr=1.0), scaler=scaler)
    loss = scaler.scale(weight.sum())
    with pytest.raises(ValueError, match="loss 1 is scaled already: scaler= multiplies the losses"):
        surgery.pc_backward([weight.sum(), loss / accumulated if accumulated > 1 else loss])
    assert weight.grad is None


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_is_the_wrapped_optimizers_and_goes_both_ways():
    model = network(2)
    surgery = wrapped(GradVac, model, "adam")
    for batch in batches(3):
        train_on(surgery, model, batch)
    state = saved(surgery.state_dict())
    assert set(state) == {"state", "param_groups", "surgery"}
    plain = OPTIMIZERS["adam"](network(2).parameters())
    plain.load_state_dict(state)
    assert torch.equal(plain.state_dict()["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    other = wrapped(GradVac, network(2), "adam")
    with pytest.warns(UserWarning, match="GradVac: the state is that of a plain optimizer"):
        other.load_state_dict(plain.state_dict())
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()["surgery"]["targets"], state["surgery"]["targets"])


def test_a_state_of_another_rule_of_other_tasks_or_of_nothing_is_refused():
    weight = one_weight()
    gradvac = GradVac(OPTIMIZERS["sgd"]([weight]), tasks=["a", "b"])
    with pytest.raises(ValueError, match="the state is that of the rule gradvac, this one's is pcgrad"):
        PCGrad(OPTIMIZERS["sgd"]([weight])).load_state_dict(gradvac.state_dict())
    with pytest.raises(ValueError, match="the state is of the tasks a, b, these are a, c"):
        GradVac(OPTIMIZERS["sgd"]([weight]), tasks=["a", "c"]).load_state_dict(gradvac.state_dict())
    with pytest.raises(ValueError, match="the state has optimizer: expected that of an optimizer of torch"):
        gradvac.load_state_dict({"optimizer": {}})


def test_hooks_of_states_are_called():
    weight, calls = one_weight(), []
    surgery = PCGrad(OPTIMIZERS["sgd"]([weight]))
    surgery.register_state_dict_pre_hook(lambda optimizer: calls.append("saving"))
    surgery.register_state_dict_post_hook(lambda optimizer, state: {**state, "more": 1})
    surgery.register_load_state_dict_pre_hook(lambda optimizer, state: calls.append(state["more"]))
    surgery.register_load_state_dict_post_hook(lambda optimizer: calls.append("loaded"))
    surgery.load_state_dict(surgery.state_dict())
    assert calls == ["saving", 1, "loaded"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_copies_and_pickles_go_on_to_the_same_end(method, copied):
    model = network(3)
    surgery = wrapped(method, model, "adam")
    scheduler = SCHEDULERS.StepLR(surgery, 100)  # replaces the step of this one
    surgery.register_step_post_hook(lambda optimizer, args, kwargs: None)  # left out, as torch's optimizers do
    first, second = batches(10).chunk(2)
    for batch in first:
        train_on(surgery, model, batch)
        scheduler.step()
    other, its = copied((model, surgery))
    assert its.optimizer is not surgery.optimizer
    assert its.param_groups[0]["params"][0] is next(other.parameters())
    for batch in second:
        train_on(surgery, model, batch)
        train_on(its, other, batch)
    assert torch.equal(flat(model), flat(other))


def test_a_shallow_copy_shares_the_wrapped_optimizer():
    surgery = PCGrad(OPTIMIZERS["sgd"]([one_weight()]))
    assert copy.copy(surgery).optimizer is surgery.optimizer


def test_a_trainer_that_moves_the_state_and_replaces_the_step_trains_alike():
    """As Accelerate's `prepare` does."""
    models = network(2), network(2)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=256.0)
    surgery, other = wrapped(GradVac, models[0], "adam"), wrapped(GradVac, models[1], "adam")
    surgery.load_state_dict(surgery.state_dict())
    original, called = surgery.step, []

    def patched(*args, **kwargs):
        called.append(args)
        return original(*args, **kwargs)

    for batch in batches(3):
        surgery.zero_grad()
        surgery.pc_backward([scaler.scale(loss) for loss in models[0].losses(batch)])
        surgery.step = patched
        scaler.step(surgery, None)
        scaler.update()
        surgery.step = original
        train_on(other, models[1], batch)
    assert called == [(None,)] * 3
    assert_close(flat(models[0]), flat(models[1]), 1e-5)


class StandIn:
    """As Lightning's manual optimization has one: attributes are read from the optimizer, and set here."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type("StandIn", (StandIn, type(optimizer)), {})

    def __getattr__(self, name):
        return getattr(self._optimizer, name)

    def step(self, closure=lambda: None):
        return self._optimizer.step(closure=closure)


@pytest.mark.parametrize("scaling", [False, True])
def test_what_a_stand_in_is_asked_for_is_done_by_the_wrapper_that_it_stands_for(scaling):
    models = network(2), network(2)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=256.0) if scaling else None
    surgery, other = wrapped(GradVac, models[0], "adam", scaler=scaler), wrapped(GradVac, models[1], "adam")
    stand_in = StandIn(surgery)
    for batch in batches(4):
        stand_in.zero_grad()
        stand_in.pc_backward(dict(zip("ab", models[0].losses(batch), strict=True)))
        stand_in.step()
        other.zero_grad()
        other.pc_backward(dict(zip("ab", models[1].losses(batch), strict=True)))
        other.step()
    assert_close(flat(models[0]), flat(models[1]), 1e-6 if scaling else 0)
    mine, plain = surgery.state_dict()["surgery"], other.state_dict()["surgery"]
    assert (mine["tasks"], mine["reached"]) == (plain["tasks"], plain["reached"])
    assert mine["tasks"] == ["a", "b"]
    assert surgery.statistics().norms == pytest.approx(other.statistics().norms, rel=1e-4)


def test_optimizers_that_cannot_be_wrapped_are_refused_by_name():
    weight = one_weight()

    class SharpnessAware(torch.optim.SGD):
        def step(self, closure):
            return super().step(closure)

    for optimizer, reason in (
        (torch.optim.LBFGS([weight]), "LBFGS evaluates the losses several times within a step"),
        (SharpnessAware([weight], lr=1.0), "SharpnessAware evaluates the losses several times"),
        (torch.optim.SparseAdam([weight]), "SparseAdam takes sparse gradients alone"),
        (PCGrad(torch.optim.SGD([weight], lr=1.0)), "the optimizer is a PCGrad already"),
        ([weight], "expected an optimizer of torch to wrap, it is a list"),
    ):
        with pytest.raises(TypeError, match=reason):
            Surgery(optimizer)


def test_a_sparse_gradient_is_refused_by_the_parameters_name():
    words = torch.nn.Embedding(5, 2, sparse=True)
    surgery = PCGrad(torch.optim.SGD(words.named_parameters(), lr=1.0))
    with pytest.raises(ValueError, match=r"parameter weight \[5, 2\] of group 0 has a gradient of torch.sparse_coo"):
        surgery.pc_backward([words(torch.tensor([1])).sum()])
    assert words.weight.grad is None


def test_parameters_on_two_devices_are_refused_by_name():
    here, there = torch.ones(1, requires_grad=True), torch.ones(2, device="meta", requires_grad=True)
    surgery = PCGrad(torch.optim.SGD([here, there], lr=1.0))
    with pytest.raises(ValueError, match=r"parameter 1 \[2\] of group 0 is on meta, others are on cpu"):
        surgery.pc_backward([here.sum(), there.sum()])


@pytest.mark.parametrize("fused", [False, True])
def test_merged_gradients_have_the_strides_of_their_parameters(fused):
    """Fused optimizers walk over memory, and take what lies at the same place for the same element."""
    torch.manual_seed(1)
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    transposed = torch.nn.Parameter(torch.randn(5, 4).t())
    reference = copy.deepcopy((layer, transposed))
    images = torch.randn(2, 3, 5, 5)

    def losses(layer, transposed):
        features = layer(images).mean((2, 3))
        return [(features @ transposed.detach()).square().mean() + transposed.sum(), (features @ transposed).mean()]

    optimizer = torch.optim.Adam([*layer.parameters(), transposed], lr=0.1, fused=fused)
    surgery = Surgery(optimizer, rule="none", reduction="sum")
    plain = torch.optim.Adam([*reference[0].parameters(), reference[1]], lr=0.1)
    for _ in range(2):
        surgery.zero_grad()
        surgery.pc_backward(losses(layer, transposed))
        for parameter in (*layer.parameters(), transposed):
            assert parameter.grad.stride() == parameter.stride()
        surgery.step()
        plain.zero_grad()
        sum(losses(*reference)).backward()
        plain.step()
    for parameter, expected in zip([*layer.parameters(), transposed], plain.param_groups[0]["params"], strict=True):
        assert_close(parameter, expected, 1e-4)
