"""Losses and predictions by formula."""

import numpy as np
import pytest
import torch

from concord.train.data.tasks import select_tasks
from concord.train.objectives.answers import outputs_of, task_predictions
from concord.train.objectives.losses import link_of, task_loss

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


LOGITS = np.array([-1.3, 0.2, 0.9, 4.0], dtype=np.float32)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def found_loss(task, logits, labels, loss):
    return task_loss(task, torch.tensor(logits).view(len(labels), -1), torch.tensor(labels), len(labels), loss).item()


@pytest.mark.parametrize(("task", "labels"), [(STS, [0.5, 2.0, 4.6, 5.0]), (PARAPHRASE, [0.0, 1.0, 1.0, 0.0])])
def test_losses_of_one_logit_compare_it_or_its_sigmoid_to_the_share_of_the_range(task, labels):
    shares = np.array(labels) / task.high
    expected = {
        "mse": np.mean((LOGITS - shares) ** 2),
        "sigmoid-mse": np.mean((sigmoid(LOGITS) - shares) ** 2),
        "binary-cross-entropy": -np.mean(shares * np.log(sigmoid(LOGITS)) + (1 - shares) * np.log(sigmoid(-LOGITS))),
    }
    for loss, value in expected.items():
        assert found_loss(task, LOGITS, labels, loss) == pytest.approx(value, rel=1e-5)


def test_huber_is_quadratic_below_one_point_and_linear_beyond():
    points = [0.5, -0.5, 3.0, -4.0]
    labels = [1.0, 2.0, 1.5, 4.5]
    logits = ((np.array(labels) + points) / 5).astype(np.float32)
    expected = np.mean([0.125, 0.125, 2.5, 3.5]) / 25
    assert found_loss(STS, logits, labels, "huber") == pytest.approx(expected, rel=1e-4)
    assert found_loss(STS, logits[:2], labels[:2], "huber") == pytest.approx(
        found_loss(STS, logits[:2], labels[:2], "mse") / 2, rel=1e-4
    )


def test_a_binary_task_may_have_two_logits():
    logits, labels = np.array([[0.3, -1.0], [2.0, 2.5]], dtype=np.float32), [1.0, 1.0]
    expected = np.mean([np.log(1 + np.exp(1.3)), np.log(1 + np.exp(-0.5))])
    assert found_loss(PARAPHRASE, logits, labels, "cross-entropy") == pytest.approx(expected, rel=1e-5)
    assert outputs_of(PARAPHRASE, "softmax") == 2
    assert [outputs_of(task, "identity") for task in (PARAPHRASE, STS)] == [1, 1]
    assert outputs_of(SST, "softmax") == 5


def test_answers_are_read_as_the_loss_trained_them():
    logits = torch.tensor([[-0.2], [0.3], [0.7]])
    assert task_predictions(PARAPHRASE, logits, link_of(PARAPHRASE, "binary-cross-entropy")).tolist() == [0, 1, 1]
    assert task_predictions(PARAPHRASE, logits, link_of(PARAPHRASE, "sigmoid-mse")).tolist() == [0, 1, 1]
    assert task_predictions(PARAPHRASE, logits, link_of(PARAPHRASE, "mse")).tolist() == [0, 0, 1]
    assert task_predictions(PARAPHRASE, logits, link_of(PARAPHRASE, "huber")).tolist() == [0, 0, 1]
    two = torch.tensor([[0.2, 0.1], [-3.0, -2.0]])
    assert task_predictions(PARAPHRASE, two, link_of(PARAPHRASE, "cross-entropy")).tolist() == [0, 1]
    assert task_predictions(STS, logits, link_of(STS, "mse")) == pytest.approx([0, 1.5, 3.5], abs=1e-6)
    expected = 5 * sigmoid(logits[:, 0].numpy())
    assert task_predictions(STS, logits, link_of(STS, "sigmoid-mse")) == pytest.approx(expected, abs=1e-5)
