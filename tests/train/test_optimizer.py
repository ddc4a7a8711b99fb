"""The whole step, flat and in the Gram matrix, against a slow fp64 reference that works on plain vectors."""

import pytest
import torch

from bert.heads import Head
from bert.multitask import MultitaskModel
from kernels import AdamWSettings
from tests.samples import random_batch, small_encoder
from tests.tolerances import assert_close
from tests.train.test_surgery import literal_pcgrad
from train.optimizer import SurgeryOptimizer
from train.surgery import RULES, random_orders

TASKS = {"one": 3, "two": 1}
SETTINGS = AdamWSettings(weight_decay=0.1)


def make_model(**more):
    generator = torch.Generator().manual_seed(4)
    heads = {name: Head(32, outputs, pair=False, dropout=0.0) for name, outputs in TASKS.items()}
    for head in heads.values():
        head.initialise(generator)
        head.weight.data *= 20
    return MultitaskModel(small_encoder(), heads, **more)


def make_optimizer(model, *, surgery="pcgrad", max_norm=0.5, scaling=False):
    return SurgeryOptimizer(
        model.shared, model.private, rule=RULES[surgery], settings=SETTINGS, max_norm=max_norm, scaling=scaling
    )


def task_losses(logits):
    """Losses whose gradients conflict: both tasks pull the same features, with opposite signs."""
    return {"one": logits["one"].square().mean(), "two": -logits["two"].mean() + logits["two"].square().mean()}


def backward(model, optimizer, seeds):
    optimizer.zero_private_gradients()
    for number, seed in enumerate(seeds):
        losses = task_losses(model(random_batch((4, 3), seed, accumulate=number > 0)))
        (sum(losses.values()) / len(seeds) * optimizer.loss_scale).backward()


class SlowReference:
    """fp64 weights; T separate backwards; literal PCGrad, clipping and AdamW, tensor by tensor."""

    def __init__(self, surgery="pcgrad", max_norm=0.5):
        self.model = make_model()
        # Loses the flat layout: parameters in fp64 with ordinary gradients.
        for parameter in self.model.parameters():
            parameter.data = parameter.data.double()
            parameter.grad = None
            if hasattr(parameter, "task_gradients"):
                del parameter.task_gradients
        self.surgery, self.max_norm = surgery, max_norm
        self.shared = dict(self.model.encoder.named_parameters())
        self.heads = dict(self.model.heads.named_parameters())
        self.state = {name: [0.0, 0.0] for name in (*self.shared, *self.heads)}
        self.steps = 0

    def step(self, seeds, orders, rate, head_rate):
        vectors, head_gradients = [], dict.fromkeys(self.heads, 0)
        for task in TASKS:
            vector = 0
            for seed in seeds:
                loss = task_losses(self.model(random_batch((4, 3), seed)))[task] / len(seeds)
                inputs = [*self.shared.values(), *self.heads.values()]
                found = torch.autograd.grad(loss, inputs, allow_unused=True)
                vector = vector + torch.cat([g.flatten() for g in found[: len(self.shared)]])
                for name, gradient in zip(self.heads, found[len(self.shared) :], strict=True):
                    head_gradients[name] = head_gradients[name] + (0 if gradient is None else gradient)
            vectors.append(vector)
        stacked = torch.stack(vectors)
        merged = literal_pcgrad(stacked, orders) if self.surgery == "pcgrad" else stacked.sum(0)
        pieces = merged.split([p.numel() for p in self.shared.values()])
        gradients = {n: g.view_as(p) for (n, p), g in zip(self.shared.items(), pieces, strict=True)} | head_gradients
        norm = sum(g.square().sum() for g in gradients.values()).sqrt()
        factor = min(1.0, self.max_norm / norm.item())
        self.steps += 1
        for name, parameter in (self.shared | self.heads).items():
            self._update(name, parameter, gradients[name] * factor, rate if name in self.shared else head_rate)
        return (stacked @ stacked.t()), norm

    def _update(self, name, parameter, gradient, rate):
        m, v = self.state[name]
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        self.state[name] = [m, v]
        alpha = rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        parameter.data = parameter.data - alpha * m / (v.sqrt() + 1e-6)
        if parameter.ndim >= 2:
            parameter.data = parameter.data * (1 - rate * 0.1)


def assert_same_weights(model, slow, start, tolerance):
    """Compare how far all weights have moved, which is more than how far they are."""
    flat = {**model.shared.values(), **model.private.values()}
    expected = slow.shared | slow.heads
    assert flat.keys() == expected.keys()
    assert_close(
        torch.cat([(flat[name].double() - start[name]).flatten() for name in flat]),
        torch.cat([(expected[name].detach() - start[name]).flatten() for name in flat]),
        tolerance,
    )


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_steps_equal_the_slow_reference(surgery, micro_batches):
    model, slow = make_model(), SlowReference(surgery)
    start = {n: p.detach().clone() for n, p in (slow.shared | slow.heads).items()}
    optimizer = make_optimizer(model, surgery=surgery)
    for step in range(4):
        seeds = [step * 10 + micro for micro in range(micro_batches)]
        orders = random_orders(2, step)
        backward(model, optimizer, seeds)
        statistics = optimizer.step(orders=orders, shared_rate=1e-3, private_rate=1e-2)
        gram, norm = slow.step(seeds, orders, 1e-3, 1e-2)
        assert_close(statistics.gram, gram, 1e-4)
        if surgery == "none":
            assert_close(statistics.merged_norm, norm, 1e-4)
    assert optimizer.conflicting_steps[0, 1] > 0, "the test must exercise surgery"
    assert_same_weights(model, slow, start, 2e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_amp_with_accumulation_and_surgery_stays_close_to_the_slow_reference(dtype, tolerance):
    model, slow = make_model(compute_dtype=dtype), SlowReference()
    start = {n: p.detach().clone() for n, p in (slow.shared | slow.heads).items()}
    optimizer = make_optimizer(model, scaling=dtype == torch.float16)
    optimizer.loss_scale.clamp_(max=1024)
    for step in range(3):
        seeds, orders = [step, step + 50], random_orders(2, step)
        backward(model, optimizer, seeds)
        optimizer.step(orders=orders, shared_rate=1e-3, private_rate=1e-2)
        slow.step(seeds, orders, 1e-3, 1e-2)
    assert optimizer.applied_steps == 3
    assert_same_weights(model, slow, start, tolerance)


def test_accumulated_micro_batches_give_the_gradients_of_their_mean():
    model = make_model()
    optimizer = make_optimizer(model)
    parts = []
    for seed in (1, 2, 3, 4):
        backward(model, optimizer, [seed])
        parts.append(model.shared.gradients.clone())
    backward(model, optimizer, [1, 2, 3, 4])
    assert_close(model.shared.gradients, torch.stack(parts).mean(0), 1e-5)


def test_an_overflow_skips_the_step_and_halves_the_loss_scale():
    model = make_model()
    optimizer = make_optimizer(model, scaling=True)
    backward(model, optimizer, [1])
    optimizer.step(orders=random_orders(2, 1), shared_rate=1e-3, private_rate=1e-2)
    before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    backward(model, optimizer, [2])
    model.shared.gradients[1, 100] = torch.inf
    optimizer.step(orders=random_orders(2, 2), shared_rate=1e-3, private_rate=1e-2)
    after = optimizer.state()
    for name in ("master", "momentum", "variance"):
        for prefix in ("shared", "private"):
            assert torch.equal(before[f"{prefix}.{name}"], after[f"{prefix}.{name}"])
    for name in ("applied_steps", "conflicting_steps", "cosine_sums"):
        assert torch.equal(before[name], after[name])
    assert after["loss_scale"] == before["loss_scale"] / 2
    assert after["skipped_steps"] == 1
    backward(model, optimizer, [3])
    optimizer.step(orders=random_orders(2, 3), shared_rate=1e-3, private_rate=1e-2)
    assert not torch.equal(before["shared.master"], optimizer.state()["shared.master"])
    assert torch.isfinite(optimizer.state()["shared.master"]).all()


def test_the_loss_scale_grows_after_its_interval(monkeypatch):
    monkeypatch.setattr("train.optimizer._GROWTH_INTERVAL", 3)
    model = make_model()
    optimizer = make_optimizer(model, scaling=True)
    scales = []
    for step in range(4):
        backward(model, optimizer, [step])
        optimizer.step(orders=random_orders(2, step), shared_rate=1e-4, private_rate=1e-4)
        scales.append(optimizer.loss_scale.item() / 2**16)
    assert scales == [1, 1, 2, 2]


def test_the_loss_scale_itself_changes_nothing():
    updates = []
    for scaling in (False, True):
        model = make_model()
        optimizer = make_optimizer(model, scaling=scaling)
        backward(model, optimizer, [1])
        optimizer.step(orders=random_orders(2, 1), shared_rate=1e-3, private_rate=1e-2)
        updates.append(model.shared.master.clone())
    assert_close(updates[0], updates[1], 1e-6)
