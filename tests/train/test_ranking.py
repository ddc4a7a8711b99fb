"""Losses on embeddings against loops over numpy vectors."""

import numpy as np
import pytest
import torch

from concord.kernels.dropout import DropoutStream
from concord.train.objectives.losses import embedding_loss
from concord.train.objectives.pairs import (
    Pairs,
    cosine_embedding,
    multiple_negatives_by_cosine,
    multiple_negatives_by_label,
    single_positive,
    weighted_triplet,
)
from concord.train.settings.tables import PAIR_LOSSES

LABELS = [5.0, 1.0, 4.4, 0.0, 4.5, 2.5, 3.0]
SHARES = torch.tensor(LABELS) / 5


def pairs(count=7, spread=0.6, seed=0):
    """x and y, [count, 6]; y resembles x, some more than others."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, 6, generator=generator)
    steps = torch.linspace(0, 2 * spread, count)[:, None]
    return first, first + steps * torch.randn(count, 6, generator=generator)


def cosine(u, v):
    u, v = u.double().numpy(), v.double().numpy()
    return float(u @ v / np.sqrt((u @ u) * (v @ v)))


def epoch(number):
    return torch.tensor(float(number))


def given(first, second, shares=SHARES, *, margin=0.0, number=0, seed=1):
    """What a loss is given: x, y and the shares, in epoch `number`, with random numbers from `seed`."""
    dropouts = DropoutStream(torch.tensor(seed))
    return Pairs(first=first, second=second, shares=shares, margin=margin, epoch=epoch(number), dropouts=dropouts)


def negatives_loss(first, second, positives, candidates):
    """-1/K sum over positives i of S(x_i, y_i) - log of the sum over `candidates(i)` of exp S(x_i, .)."""
    terms = [
        cosine(first[i], second[i]) - np.log(sum(np.exp(cosine(first[i], other)) for other in candidates(i)))
        for i in positives
    ]
    return -np.mean(terms) if terms else 0.0


def test_cosine_embedding_is_torchs_loss_with_pairs_parted_in_the_middle_of_the_range():
    first, second = pairs(spread=3.0)
    second[1] = first[1] + 0.1
    signs = torch.tensor([1.0 if label >= 2.5 else -1.0 for label in LABELS])
    for margin in (0.0, 0.4):
        expected = torch.nn.CosineEmbeddingLoss(margin=margin)(first, second, signs)
        assert cosine_embedding(given(first, second, margin=margin)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert cosine_embedding(given(first, second, margin=0.4)) < cosine_embedding(given(first, second))


@pytest.mark.parametrize(
    ("number", "positives"), [(0, [0, 2, 4]), (1, [0, 4]), (2, [0, 4]), (3, [0]), (12, [0]), (13, [])]
)
def test_positives_by_label_are_those_above_a_threshold_that_rises_with_the_epochs(number, positives):
    first, second = pairs()
    expected = negatives_loss(first, second, positives, lambda i: list(second))
    found = multiple_negatives_by_label(given(first, second, number=number))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number", [0, 5, 9])
def test_positives_by_cosine_are_those_above_a_threshold_that_rises_and_all_others_are_negatives(number):
    first, second = pairs()
    positives = [i for i in range(7) if cosine(first[i], second[i]) >= 0.8 + 0.02 * number]
    expected = negatives_loss(first, second, positives, lambda i: [*second, *(first[j] for j in range(7) if j != i)])
    found = multiple_negatives_by_cosine(given(first, second, number=number))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_cosines_threshold_leaves_out_more_pairs_in_later_epochs():
    first, second = pairs()
    counts = [sum(cosine(u, v) >= 0.8 + 0.02 * number for u, v in zip(first, second, strict=True)) for number in (0, 9)]
    assert counts[0] > counts[1] > 0
    assert multiple_negatives_by_cosine(given(first, second, number=10)) == 0


def test_one_positive_stands_against_all_other_pairs():
    first, second = pairs()
    cosines = [cosine(u, v) for u, v in zip(first, second, strict=True)]
    for labels, positive in (([3.0, 1.0, 3.2, 0.0, 5.0, 2.5, 3.0], 2), (LABELS, 0)):
        others = [value for index, value in enumerate(cosines) if index != positive]
        expected = -(cosines[positive] - np.log(np.sum(np.exp(others))))
        found = single_positive(given(first, second, torch.tensor(labels) / 5))
        assert found.item() == pytest.approx(expected, rel=1e-5)


def drawn_negatives(count, seed):
    """The negative of each of `count` pairs, found by its effect: where all weight is on pair i, and all distances are
    alike so that no hinge is closed, its own second sentence and its negative alone have gradients."""
    found = []
    for index in range(count):
        second = torch.eye(count).requires_grad_()
        loss = weighted_triplet(given(torch.zeros(count, count), second, torch.eye(count)[index], seed=seed))
        (gradient,) = torch.autograd.grad(loss, second)
        found += [row for row in range(count) if row != index and gradient[row].abs().max() > 0]
    return found


def test_the_triplet_loss_is_torchs_with_a_random_negative_weighted_by_the_label():
    first, second = pairs()
    negatives = drawn_negatives(7, 11)
    losses = torch.nn.TripletMarginLoss(margin=1.0, reduction="none")(first, second, second[negatives])
    expected = (SHARES * losses).mean()
    assert expected > 0
    assert weighted_triplet(given(first, second, seed=11)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_negatives_are_other_pairs_drawn_anew_with_each_seed():
    draws = [drawn_negatives(7, seed) for seed in range(20)]
    assert all(len(draw) == 7 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 15
    assert {row for draw in draws for row in draw} == set(range(7))


@pytest.mark.parametrize("name", PAIR_LOSSES.names)
@pytest.mark.parametrize("count", [1, 2])
def test_without_positives_or_negatives_a_loss_is_zero_and_has_finite_gradients(name, count):
    embeddings = torch.eye(2 * count, 6).requires_grad_()
    shares = torch.zeros(count)
    loss = embedding_loss(name, embeddings, shares, margin=0.0, epoch=epoch(0), dropouts=DropoutStream(torch.tensor(1)))
    loss.backward()
    assert loss == 0
    assert embeddings.grad.isfinite().all()


def test_a_name_stands_for_its_loss():
    first, second = pairs()
    embeddings = torch.stack([first, second], dim=1).flatten(0, 1)
    dropouts = DropoutStream(torch.tensor(11))
    pairs_of_all = given(first, second, margin=0.2, number=1, seed=11)
    expected = {
        "cosine-embedding": cosine_embedding(pairs_of_all),
        "mnrl-label": multiple_negatives_by_label(pairs_of_all),
        "mnrl-cosine": multiple_negatives_by_cosine(pairs_of_all),
        "mnrl-single": single_positive(pairs_of_all),
        "triplet": weighted_triplet(pairs_of_all),
    }
    assert tuple(expected) == PAIR_LOSSES.names
    assert len({round(value.item(), 5) for value in expected.values()}) == 5
    for name, value in expected.items():
        found = embedding_loss(name, embeddings, SHARES, margin=0.2, epoch=epoch(1), dropouts=dropouts)
        assert torch.equal(found, value)
