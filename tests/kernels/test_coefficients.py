"""Surgery in the Gram matrix against the literal, vector-by-vector algorithm."""

import math

import pytest
import torch

from concord.kernels.surgery.rules import cosines, random_orders, surgery_coefficients
from tests.assertions import assert_close


def literal_pcgrad(gradients, orders):
    """Algorithm 1 of Yu et al. (2020) on vectors: the sum of the projected gradients, fp64 [P]."""
    gradients = gradients.double()
    total = torch.zeros_like(gradients[0])
    for i, order in enumerate(orders.tolist()):
        projected = gradients[i].clone()
        for j in order:
            if j == i:
                continue
            dot = projected @ gradients[j]
            if dot < 0:
                projected -= dot / (gradients[j] @ gradients[j]) * gradients[j]
        total += projected
    return total


def literal_gradvac(gradients, orders, targets, beta):
    """Algorithm 1 of Wang et al. (2021) on vectors: the sum of the altered gradients; `targets` are updated."""
    gradients = gradients.double()
    total = torch.zeros_like(gradients[0])
    for i, order in enumerate(orders.tolist()):
        altered = gradients[i].clone()
        for j in order:
            length, other = altered.norm(), gradients[j].norm()
            if j == i or length == 0 or other == 0:
                continue
            phi, target = altered @ gradients[j] / (length * other), targets[i, j].clone()
            if phi < target:
                weight = target * (1 - phi**2).clamp_min(0).sqrt() - phi * (1 - target**2).sqrt()
                altered += length * weight / (other * (1 - target**2).sqrt()) * gradients[j]
            targets[i, j] += beta * (phi - target)
        total += altered
    return total


def orders_of(tasks, seed):
    return random_orders(torch.tensor(seed), tasks)


def coefficients(gradients, orders, method="pcgrad"):
    return surgery_coefficients((gradients @ gradients.t())[None], orders, method)[0][0]


def merged(gradients, orders):
    gradients = gradients.double()
    return coefficients(gradients, orders) @ gradients


def random_gradients(tasks, size, seed):
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_update(gradients, orders):
    """Equal up to 1e-5 of the largest gradient, which is what rounding can be measured against."""
    difference = (merged(gradients, orders) - literal_pcgrad(gradients, orders)).norm()
    assert difference <= 1e-5 * gradients.norm(dim=1).max()


@pytest.mark.parametrize("size", [1, 3, 1023])
@pytest.mark.parametrize("tasks", range(1, 9))
def test_random_gradients(tasks, size):
    for seed in range(5):
        assert_same_update(random_gradients(tasks, size, seed), orders_of(tasks, seed))


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_parallel_and_opposed_gradients(tasks):
    direction = random_gradients(1, 50, 1)
    for signs in ([1.0] * tasks, [1.0, -1.0] * tasks, [-2.0, 0.5] * tasks):
        assert_same_update(torch.tensor(signs[:tasks], dtype=torch.float64)[:, None] * direction, orders_of(tasks, 2))


def test_zero_gradients_conflict_with_nothing():
    gradients = random_gradients(4, 30, 3)
    gradients[1] = 0
    assert_same_update(gradients, orders_of(4, 4))
    assert merged(torch.zeros(3, 10), orders_of(3, 1)).abs().sum() == 0


@pytest.mark.parametrize("exponent", range(-10, 11, 4))
def test_scales_from_1e_10_to_1e10(exponent):
    gradients = random_gradients(3, 200, 5)
    gradients[0] *= 10.0**exponent
    for seed in range(6):
        orders = orders_of(3, seed)
        expected = literal_pcgrad(gradients, orders)
        assert_close(merged(gradients, orders), expected, 1e-5)


def test_without_conflict_the_update_is_the_plain_sum():
    gradients = random_gradients(3, 40, 6).abs()
    assert torch.equal(coefficients(gradients, orders_of(3, 1)), torch.ones(3).double())


def test_with_two_tasks_the_update_opposes_neither():
    for seed in range(20):
        gradients = random_gradients(2, 7, seed)
        update = merged(gradients, orders_of(2, seed))
        assert (gradients @ update >= -1e-9).all()


def test_the_order_of_the_others_matters_with_three_tasks():
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.3, 0.5], [-0.4, -1.0, 0.1]], dtype=torch.float64)
    updates = {tuple(merged(gradients, orders_of(3, seed)).tolist()) for seed in range(30)}
    assert len(updates) > 1


def test_random_orders_are_permutations_that_follow_the_seed_and_are_uniform():
    assert torch.equal(orders_of(5, 1), orders_of(5, 1))
    drawn = [orders_of(3, seed) for seed in range(600)]
    assert all(sorted(row) == [0, 1, 2] for orders in drawn for row in orders.tolist())
    first = sum(orders[0, 0].item() == 0 for orders in drawn) / 600
    assert math.isclose(first, 1 / 3, abs_tol=0.07)


def test_no_surgery_is_the_sum():
    assert torch.equal(coefficients(random_gradients(3, 3, 1), orders_of(3, 1), "none"), torch.ones(3).double())


@pytest.mark.parametrize("size", [3, 1023])
@pytest.mark.parametrize("tasks", range(1, 9))
def test_gradvac_follows_the_literal_algorithm_and_its_targets(tasks, size):
    expected_targets = torch.zeros(tasks, tasks, dtype=torch.float64)
    targets = expected_targets.clone()[None]
    for step in range(12):
        # A common direction: cosines that the targets follow, some above them and some below.
        gradients = random_gradients(tasks, size, step) + random_gradients(1, size, 99) * (step % 3 - 0.5)
        orders = orders_of(tasks, step)
        expected = literal_gradvac(gradients, orders, expected_targets, 0.3)
        found, targets = surgery_coefficients((gradients @ gradients.t())[None], orders, "gradvac", targets, 0.3)
        assert_close(found[0] @ gradients, expected, 1e-8)
        assert_close(targets[0], expected_targets, 1e-9)
    assert tasks == 1 or expected_targets.any()


def test_each_group_has_surgery_of_its_own():
    gradients = [random_gradients(4, 20, seed) for seed in range(3)]
    grams = torch.stack([one @ one.t() for one in gradients])
    orders = orders_of(4, 1)
    found, _ = surgery_coefficients(grams, orders, "pcgrad")
    for own, one in zip(found, gradients, strict=True):
        assert_close(own @ one, literal_pcgrad(one, orders), 1e-9)


def test_cosines_of_a_zero_gradient_are_zero():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-3.0, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[1, 0, -(0.5**0.5)], [0, 0, 0], [-(0.5**0.5), 0, 1]], dtype=torch.float64)
    assert_close(cosines(gradients @ gradients.t()), expected, 1e-12)
