"""Losses and predictions by formula."""

import numpy as np
import pytest
import torch

from train.losses import task_loss, task_predictions
from train.tasks import select_tasks

SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)


def test_classification_is_cross_entropy():
    logits, labels = torch.randn(6, 5), torch.tensor([0.0, 1, 2, 3, 4, 4])
    expected = -np.mean(
        [torch.log_softmax(row, 0)[int(label)].item() for row, label in zip(logits, labels, strict=True)]
    )
    assert task_loss(SST, logits, labels, 6).item() == pytest.approx(expected, rel=1e-5)
    assert task_predictions(SST, logits).tolist() == logits.argmax(1).tolist()


def test_binary_is_cross_entropy_of_the_sigmoid():
    logits, labels = torch.tensor([[2.0], [-1.0]]), torch.tensor([1.0, 1.0])
    expected = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(1.0))])
    assert task_loss(PARAPHRASE, logits, labels, 2).item() == pytest.approx(expected, rel=1e-5)
    assert task_predictions(PARAPHRASE, logits).tolist() == [1, 0]


def test_regression_is_the_squared_error_as_a_share_of_the_range():
    logits, labels = torch.tensor([[0.5], [1.2], [-0.1]]), torch.tensor([2.5, 5.0, 1.0])
    assert task_loss(STS, logits, labels, 3).item() == pytest.approx((0 + 0.2**2 + 0.3**2) / 3, rel=1e-5)
    assert task_predictions(STS, logits).tolist() == [2.5, 5, 0]


def test_parts_of_a_step_add_up_to_its_mean():
    logits, labels = torch.randn(7, 5), torch.randint(0, 5, (7,)).float()
    parts = task_loss(SST, logits[:3], labels[:3], 7) + task_loss(SST, logits[3:], labels[3:], 7)
    assert parts.item() == pytest.approx(task_loss(SST, logits, labels, 7).item(), rel=1e-6)
