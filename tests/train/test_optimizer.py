"""The whole step, flat and in the Gram matrix, against a slow fp64 reference that works on plain vectors.

On a GPU the step is of the kernels there; the reference stays on the CPU.
"""

import numpy as np
import pytest
import torch

from concord.bert.batch import TaskTokens, pack
from concord.bert.heads import Head
from concord.bert.multitask import MultitaskModel
from concord.kernels.surgery.plan import SurgerySettings
from concord.kernels.surgery.rules import random_orders
from concord.train.steps.optimizer import SurgeryOptimizer
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.kernels.test_coefficients import literal_pcgrad
from tests.samples import random_batch, random_tokens, small_encoder

TASKS = {"one": 3, "two": 1}
RATE, HEAD_RATE = 1e-3, 1e-2
TINY = 1e-20  # moves no weight, but lets the moments follow the gradients


def make_model(device=DEVICE, **more):
    generator = torch.Generator().manual_seed(4)
    heads = {name: Head(32, outputs, pair=False, dropout=0.0) for name, outputs in TASKS.items()}
    for head in heads.values():
        head.initialise(generator)
        head.weight.data *= 20
        head.to(device)
    return MultitaskModel(small_encoder().to(device), heads, **more)


def make_optimizer(model, *, surgery="pcgrad", rate=RATE, head_rate=HEAD_RATE, weighting=None, **more):
    settings = SurgerySettings(**{"method": surgery, "max_norm": 0.5, "weight_decay": 0.1} | more)
    return SurgeryOptimizer(
        model.shared,
        model.private,
        model.tasks,
        settings=settings,
        shared_rates=rate,
        private_rates=head_rate,
        weighting=weighting,
    )


def step(optimizer, seed):
    return optimizer.step(seed=torch.tensor(seed, device=DEVICE), rate_factor=torch.ones((), device=DEVICE))


def task_losses(outputs):
    """Losses whose gradients conflict: both tasks pull the same features, with opposite signs."""
    one, two = outputs["one"].logits, outputs["two"].logits
    return {"one": one.square().mean(), "two": -two.mean() + two.square().mean()}


def backward(model, optimizer, seeds):
    optimizer.zero_private_gradients()
    for number, seed in enumerate(seeds):
        losses = task_losses(model(random_batch((4, 3), seed, device=DEVICE, accumulate=number > 0)))
        (sum(losses.values()) / len(seeds) * optimizer.loss_scale).backward()


class SlowReference:
    """fp64 weights; T separate backwards; literal PCGrad, clipping and AdamW, tensor by tensor."""

    def __init__(self, surgery="pcgrad", max_norm=0.5):
        self.model = make_model("cpu")
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
        torch.cat([(flat[name].double().cpu() - start[name]).flatten() for name in flat]),
        torch.cat([(expected[name].detach() - start[name]).flatten() for name in flat]),
        tolerance,
    )


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_steps_equal_the_slow_reference(surgery, micro_batches):
    model, slow = make_model(), SlowReference(surgery)
    start = {n: p.detach().clone() for n, p in (slow.shared | slow.heads).items()}
    optimizer = make_optimizer(model, surgery=surgery)
    for number in range(4):
        seeds = [number * 10 + micro for micro in range(micro_batches)]
        orders = random_orders(torch.tensor(number), 2)
        backward(model, optimizer, seeds)
        plan = step(optimizer, number)
        gram, norm = slow.step(seeds, orders, 1e-3, 1e-2)
        assert_close(plan.gram.cpu(), gram, 1e-4)
        if surgery == "none":
            assert_close(plan.merged_norm.cpu(), norm, 1e-4)
    assert optimizer.state.conflicts[-1, 0, 1] > 0, "the test must exercise surgery"
    assert_same_weights(model, slow, start, 2e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_amp_with_accumulation_and_surgery_stays_close_to_the_slow_reference(dtype, tolerance):
    model, slow = make_model(compute_dtype=dtype), SlowReference()
    start = {n: p.detach().clone() for n, p in (slow.shared | slow.heads).items()}
    optimizer = make_optimizer(model, scaling=dtype == torch.float16)
    optimizer.loss_scale.clamp_(max=1024)
    for number in range(3):
        seeds, orders = [number, number + 50], random_orders(torch.tensor(number), 2)
        backward(model, optimizer, seeds)
        step(optimizer, number)
        slow.step(seeds, orders, 1e-3, 1e-2)
    assert optimizer.state.applied_steps == 3
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_four_micro_batches_move_the_weights_as_one_batch_of_four_times_the_size(dtype):
    moved = []
    for micro_batches in (4, 1):
        model = make_model(compute_dtype=dtype)
        optimizer = make_optimizer(model, scaling=dtype == torch.float16)
        optimizer.loss_scale.clamp_(max=1024)
        start = model.shared.master.clone()
        for number in range(2):
            parts = [[random_tokens(count, (number, part, t)) for t, count in enumerate((4, 3))] for part in range(4)]
            if micro_batches == 1:
                parts = [[joined([part[task] for part in parts]) for task in range(2)]]
            optimizer.zero_private_gradients()
            for index, tasks in enumerate(parts):
                losses = task_losses(model(pack(tasks, DEVICE, accumulate=index > 0)))
                (sum(losses.values()) / len(parts) * optimizer.loss_scale).backward()
            assert step(optimizer, number).apply
        assert optimizer.state.conflicts[-1, 0, 1] > 0, "the test must exercise surgery"
        assert optimizer.state.beta_powers[0, 0].item() == pytest.approx(0.81)
        moved.append(model.shared.master - start)
    # Adam's first steps are little more than signs: a gradient of rounding errors moves its weight either way.
    assert_close(moved[0], moved[1], {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}[dtype])


def joined(parts):
    return TaskTokens(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "segments", "lengths")}
    )


def norms_over_everything(model):
    """Each task's gradient, heads included, as a vector; parameters in the flat layout's order."""
    rows = []
    for task, name in enumerate(TASKS):
        own = [
            model.private.view(model.private.gradients, entry)[0].flatten() * (entry.name.split(".")[0] == name)
            for entry in model.private.entries
        ]
        rows.append(torch.cat([model.shared.gradients[task], *own]).double())
    return torch.stack(rows)


@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scope_and_reduction_follow_the_literal_algorithm(scope, reduction):
    model = make_model()
    optimizer = make_optimizer(
        model,
        private_norms=scope == "all",
        mean=reduction == "mean",
        max_norm=0.0,
        beta1=0.0,
        head_rate=TINY,
        rate=TINY,
    )
    for number in range(20):
        backward(model, optimizer, [number])
        orders = random_orders(torch.tensor(number), 2)
        rows = norms_over_everything(model)
        size = model.shared.size
        if scope == "all":
            expected = literal_pcgrad(rows, orders)
        else:
            expected = torch.cat([literal_pcgrad(rows[:, :size], orders), rows[:, size:].sum(0)])
        if reduction == "mean":  # of what all tasks share; the rest has one task's gradient
            expected[:size] /= 2
        step(optimizer, number)
        # With beta1 = 0 the first moment is the merged gradient.
        heads = [model.private.view(model.private.momentum, entry).flatten() for entry in model.private.entries]
        assert_close(torch.cat([model.shared.momentum, *heads]).double(), expected, 1e-5)
    assert optimizer.state.conflicts[-1, 0, 1] > 3, "the test must exercise surgery"


@pytest.mark.parametrize("by_matrix", [False, True])
def test_by_block_each_block_has_surgery_of_its_own(by_matrix):
    model = make_model(by_matrix=by_matrix)
    optimizer = make_optimizer(model, by_block=True, max_norm=0.0, beta1=0.0, rate=TINY, head_rate=TINY)
    blocks = {entry.name: entry.block for entry in model.shared.entries}
    assert len(set(blocks.values())) == (len(blocks) if by_matrix else 5)
    backward(model, optimizer, [1])
    step(optimizer, 1)
    orders = random_orders(torch.tensor(1), 2)
    for block in set(blocks.values()):
        entries = [entry for entry in model.shared.entries if entry.block == block]

        def flat(buffer, entries=entries):
            return torch.cat([model.shared.view(buffer, entry).flatten(-len(entry.shape)) for entry in entries], -1)

        expected = literal_pcgrad(flat(model.shared.gradients), orders)
        assert_close(flat(model.shared.momentum).double(), expected, 1e-5)


def test_a_weighting_from_elsewhere_is_given_the_true_gram_matrix_and_obeyed():
    seen = []

    def weighting(grams):
        seen.append(grams)
        return torch.tensor([[0.75, 0.125]], dtype=torch.float64, device=DEVICE)

    model = make_model()
    optimizer = make_optimizer(
        model, surgery="given", mean=True, weighting=weighting, scaling=True, max_norm=0.0, beta1=0.0
    )
    backward(model, optimizer, [1])
    gradients = model.shared.gradients.double() / optimizer.loss_scale.double()
    step(optimizer, 1)
    assert_close(seen[0], (gradients @ gradients.t())[None], 1e-5)
    expected = torch.tensor([0.75, 0.125], dtype=torch.float64, device=DEVICE) @ gradients
    assert_close(model.shared.momentum.double(), expected, 1e-5)


def test_what_a_weighting_carries_from_step_to_step_is_saved_and_put_back():
    class Weighting:
        def __init__(self):
            self.carried = torch.zeros(1, 2, dtype=torch.float64, device=DEVICE)

        def __call__(self, grams):
            self.carried += 1
            return self.carried

    model = make_model()
    optimizer = make_optimizer(model, surgery="given", weighting=Weighting())
    backward(model, optimizer, [1])
    step(optimizer, 1)
    saved = {name: tensor.clone() for name, tensor in optimizer.saved().items()}
    other = make_optimizer(make_model(), surgery="given", weighting=Weighting())
    other.load(saved)
    assert torch.equal(other.weighting.carried, torch.ones(1, 2, dtype=torch.float64, device=DEVICE))


def test_an_overflow_skips_the_step_and_halves_the_loss_scale():
    model = make_model()
    optimizer = make_optimizer(model, scaling=True)
    backward(model, optimizer, [1])
    step(optimizer, 1)
    before = {name: tensor.clone() for name, tensor in optimizer.saved().items()}
    backward(model, optimizer, [2])
    model.shared.gradients[1, 100] = torch.inf
    step(optimizer, 2)
    after = optimizer.saved()
    for name in ("master", "momentum", "variance"):
        for prefix in ("shared", "private"):
            assert torch.equal(before[f"{prefix}.{name}"], after[f"{prefix}.{name}"])
    for name in ("applied_steps", "meetings", "conflicts", "cosines", "norms", "changes", "beta_powers"):
        assert torch.equal(before[name], after[name])
    assert after["loss_scale"] == before["loss_scale"] / 2
    assert after["skipped_steps"] == 1
    backward(model, optimizer, [3])
    step(optimizer, 3)
    assert not torch.equal(before["shared.master"], optimizer.saved()["shared.master"])
    assert torch.isfinite(optimizer.saved()["shared.master"]).all()


def test_the_loss_scale_grows_after_its_interval(monkeypatch):
    monkeypatch.setattr("concord.kernels.surgery.plan._GROWTH_INTERVAL", 3)
    model = make_model()
    optimizer = make_optimizer(model, scaling=True)
    scales = []
    for number in range(4):
        backward(model, optimizer, [number])
        step(optimizer, number)
        scales.append(optimizer.loss_scale.item() / 2**16)
    assert scales == [1, 1, 2, 2]


def test_the_loss_scale_itself_changes_nothing():
    updates = []
    for scaling in (False, True):
        model = make_model()
        optimizer = make_optimizer(model, scaling=scaling)
        backward(model, optimizer, [1])
        step(optimizer, 1)
        updates.append(model.shared.master.clone())
    assert_close(updates[0], updates[1], 1e-6)
