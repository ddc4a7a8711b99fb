"""SMART's regulariser: its gradients against plain autograd, its noise, and the distance between answers."""

import numpy as np
import pytest
import torch

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.kernels.dropout import DropoutStream
from concord.kernels.tolerances import relative_error
from concord.train.data.batches import gather
from concord.train.data.tasks import select_tasks
from concord.train.objectives import smart
from concord.train.objectives.losses import task_loss
from concord.train.objectives.objectives import build_objectives
from concord.train.objectives.smart import ascend, divergences, normal_numbers
from concord.train.steps.build import build_model
from concord.train.steps.precision import choose_precision
from concord.train.steps.step import TrainingStep
from tests.assertions import assert_close
from tests.samples import SMALL, random_split
from tests.settings import fine_tuning

TASKS = select_tasks(["sst", "paraphrase", "sts"], None)
SST, PARAPHRASE, STS = TASKS
NAMES = [task.name for task in TASKS]
SEED = torch.tensor(5)


class NoOptimizer:
    """Leaves gradients as the backwards of a step left them."""

    loss_scale = torch.tensor(4.0)

    def __init__(self, model):
        self.zero_private_gradients = model.private.gradients.zero_

    def step(self, **inputs):
        return None

    def add_up(self, losses):
        return losses


def make_model(config, dropout):
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    encoder = Encoder(BertConfig(**(vars(SMALL) | rates | {"num_hidden_layers": 2})))
    encoder.initialise(1)
    for parameter in encoder.parameters():
        if parameter.ndim >= 2:
            parameter.data *= 5
    model = build_model(config, TASKS, encoder, choose_precision("cpu", "off"))
    model.private.master.mul_(20)
    return model


def objectives_of(config):
    return build_objectives(config.objectives, config.data.pair_encoding, TASKS, dict.fromkeys(NAMES, 6))


def without_flat_layout(model):
    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
        if hasattr(parameter, "task_gradients"):
            del parameter.task_gradients
    return model


def plain_distance(task, first, second):
    """Of all examples together, from logits."""
    if task.kind == "regression":
        return (first - second).square().sum()
    if task.kind == "binary":
        first, second = (torch.cat([torch.zeros_like(x), x], dim=1) for x in (first, second))
    p, q = first.softmax(1), second.softmax(1)
    return (p * (p / q).log()).sum() + (q * (q / p).log()).sum()


def plain_gradients(model, batches, smoothness, weights, examples):
    """Task -> the gradient of its loss and regulariser, by name, with one ordinary backward a task and micro-batch."""
    smoothed = [task for task in TASKS if smoothness[task.name]]
    parameters = dict(model.named_parameters())
    totals = {task.name: dict.fromkeys(parameters, 0) for task in TASKS}
    for number, batch in enumerate(batches):
        dropouts = DropoutStream(SEED, number)
        clean = model(batch.packed, dropouts)
        tokens = len(batch.smoothed.ids)
        noise = (normal_numbers(dropouts, (tokens, 32)) * smart._SIGMA).requires_grad_()
        near = model(batch.smoothed, dropouts, noise=noise)
        distance = sum(plain_distance(t, near[t.name].logits, clean[t.name].logits.detach()) for t in smoothed)
        (gradient,) = torch.autograd.grad(distance, noise)
        largest = gradient.abs().max(dim=1, keepdim=True).values
        moved = model(batch.smoothed, dropouts, noise=smart._ETA * gradient / (largest + 1e-6))
        for task in TASKS:
            total = task_loss(task, clean[task.name].logits, batch.labels[task.name], examples)
            if task in smoothed:
                distance = plain_distance(task, clean[task.name].logits, moved[task.name].logits)
                total = total + smoothness[task.name] * distance / examples
            total = weights[task.name] * total
            found = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, value in zip(parameters, found, strict=True):
                totals[task.name][name] = totals[task.name][name] + (0 if value is None else value)
    return totals


# Without dropout only the noise tells two passes apart, and it has to be large for its effect to be seen.
@pytest.mark.parametrize(("dropout", "sizes"), [(0.1, None), (0.0, (0.05, 0.3))])
@pytest.mark.parametrize("smoothness", [(3.0, 3.0, 3.0), (2.0, 0.0, 3.0)])
def test_gradients_of_a_step_are_those_of_plain_autograd(dropout, sizes, smoothness, monkeypatch):
    if sizes:
        monkeypatch.setattr(smart, "_SIGMA", sizes[0])
        monkeypatch.setattr(smart, "_ETA", sizes[1])
    smoothness = dict(zip(NAMES, smoothness, strict=True))
    settings = {"head_dropout": dropout, "loss_weights": ("1", "sts=2"), "device": "cpu"}
    splits = {task.name: random_split(task, 6, seed=index, longest=8) for index, task in enumerate(TASKS)}
    for split in splits.values():
        split.labels[:] = np.arange(6) % 2
    found = {}
    for weights in (smoothness, dict.fromkeys(NAMES, 0)):
        config = fine_tuning(smart=tuple(f"{task}={weight}" for task, weight in weights.items()), **settings)
        model = make_model(config, dropout)
        model.shared.gradients.fill_(7.0)
        smoothed = [task for task, weight in weights.items() if weight]
        batches = [
            gather(splits, dict.fromkeys(NAMES, np.arange(first, first + 3)), accumulate=first > 0, smoothed=smoothed)
            for first in (0, 3)
        ]
        step = TrainingStep(model, NoOptimizer(model), objectives_of(config))
        step(batches, dict.fromkeys(NAMES, 6), seed=SEED, rate_factor=None, epoch=torch.tensor(0.0))
        found[bool(smoothed)] = (
            batches,
            {
                entry.name: flat.view(flat.gradients, entry) / 4
                for flat in (model.shared, model.private)
                for entry in flat.entries
            },
        )
    batches, with_smart = found[True]
    expected = plain_gradients(
        without_flat_layout(make_model(config, dropout)), batches, smoothness, {"sst": 1, "paraphrase": 1, "sts": 2}, 6
    )
    for name, gradients in with_smart.items():
        if name.endswith("qkv.bias"):
            continue  # the key third's gradient is zero but for rounding
        if name.partition(".")[0] in NAMES:
            assert_close(gradients[0], expected[name.partition(".")[0]][f"heads.{name}"], 1e-4)
            continue
        for task, gradient in zip(NAMES, gradients, strict=True):
            assert_close(gradient, expected[task][f"encoder.{name}"], 1e-4)
    for name in ("embeddings.words", "layers.1.output.weight"):
        for task, smoothed, plain in zip(NAMES, with_smart[name], found[False][1][name], strict=True):
            assert (relative_error(smoothed, plain) > 0.02) == bool(smoothness[task]), "or it does nothing"


def test_the_search_for_the_noise_leaves_gradients_alone_and_parameters_trainable():
    config = fine_tuning(smart=("1",), device="cpu")
    model = make_model(config, 0.1)
    splits = {task.name: random_split(task, 2, seed=index, longest=8) for index, task in enumerate(TASKS)}
    batch = gather(splits, dict.fromkeys(NAMES, np.arange(2))).packed
    for entry in model.shared.entries:
        model.shared.view(model.shared.gradients, entry).fill_(7.0)
    clean = model(batch)
    objectives = objectives_of(config)
    smoothness = smart.Smoothness(model, objectives)
    smoothness(batch, clean, dict.fromkeys(NAMES, 2), DropoutStream(SEED), torch.tensor(1.0))
    assert all((model.shared.view(model.shared.gradients, entry) == 7).all() for entry in model.shared.entries)
    assert (model.private.gradients == 0).all()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_noise_moves_answers_further_than_random_noise_of_its_size(monkeypatch):
    monkeypatch.setattr(smart, "_SIGMA", 0.01)
    monkeypatch.setattr(smart, "_ETA", 0.05)
    config = fine_tuning(smart=("1",), device="cpu")
    model = make_model(config, 0.0)
    splits = {task.name: random_split(task, 4, seed=index, longest=8) for index, task in enumerate(TASKS)}
    batch = gather(splits, dict.fromkeys(NAMES, np.arange(4))).packed
    seen, forward = [], model.forward

    def watched(batch, dropouts, *, noise):
        seen.append(noise.detach())
        return forward(batch, None, noise=noise)

    monkeypatch.setattr(model, "forward", watched)
    clean = forward(batch)
    objectives = objectives_of(config)
    smart.Smoothness(model, objectives)(batch, clean, dict.fromkeys(NAMES, 4), DropoutStream(SEED), torch.tensor(1.0))
    adversarial = seen[1]
    assert len(seen) == 2
    assert adversarial.abs().amax(1).max() <= 0.05
    assert adversarial.abs().amax(1).median() > 0.04

    def moved(noise):
        logits = forward(batch, noise=noise)["sst"].logits
        return divergences(SST, "softmax", logits, clean["sst"].logits).sum().item()

    others = [moved(torch.sign(torch.randn_like(adversarial)) * adversarial.abs()) for _ in range(5)]
    assert moved(adversarial) > 3 * max(others)


def test_the_step_of_ascent_is_normalised_by_each_tokens_largest_element():
    gradient = torch.tensor([[1.0, -4.0, 2.0], [0.0, 0.0, 0.0], [1e-6, 0.0, 0.0]])
    expected = torch.tensor([[0.25e-3, -1e-3, 0.5e-3], [0.0, 0.0, 0.0], [0.5e-3, 0.0, 0.0]])
    assert torch.allclose(ascend(gradient), expected, rtol=1e-4)


def test_divergences_are_symmetric_and_those_of_the_answers():
    first, second = torch.randn(4, 5), torch.randn(4, 5)
    p, q = first.double().softmax(1), second.double().softmax(1)
    expected = (p * (p / q).log() + q * (q / p).log()).sum(1)
    assert_close(divergences(SST, "softmax", first, second), expected, 1e-5)
    assert_close(divergences(SST, "softmax", second, first), expected, 1e-5)
    first, second = torch.randn(4, 1), torch.randn(4, 1)
    p, q = first[:, 0].double().sigmoid(), second[:, 0].double().sigmoid()
    expected = (p - q) * (p / q).log() + (q - p) * ((1 - p) / (1 - q)).log()
    assert_close(divergences(PARAPHRASE, "sigmoid", first, second), expected, 1e-5)
    assert_close(divergences(STS, "sigmoid", first, second), (p - q) ** 2, 1e-5)
    assert_close(divergences(STS, "identity", first, second), (first - second)[:, 0] ** 2, 1e-6)


def test_normal_numbers_are_normal_and_new_with_each_place_and_seed():
    dropouts = DropoutStream(SEED)
    first, second = normal_numbers(dropouts, (101, 331)), normal_numbers(dropouts, (101, 331))
    assert first.shape == (101, 331)
    assert torch.equal(first, normal_numbers(DropoutStream(SEED), (101, 331)))
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.02
    assert abs(first.mean()) < 0.02
    assert first.std() == pytest.approx(1, abs=0.02)
    shares = [(first.abs() < bound).float().mean().item() for bound in (0.5, 1, 2, 3)]
    assert shares == pytest.approx([0.3829, 0.6827, 0.9545, 0.9973], abs=0.01)
