"""Steps with and without CUDA graphs are compared by their bits, and a comparison of nothing is no success."""

from dataclasses import replace

import pytest
import torch

from bench import captured_steps
from bench.captured_steps import Trained, differences, main, train
from concord.bert.errors import InputError
from tests.bench.peer_updates import peer_splits

SAME = Trained(torch.tensor([[1.0, 2.0], [0.5, 0.25]]), {"shared": torch.ones(5), "heads": torch.zeros(3)}, 2)


def changed(values, place, value):
    values = values.clone()
    values[place] = value
    return values


def test_the_same_bits_differ_in_nothing():
    assert differences(replace(SAME, captured=0), SAME) == []


@pytest.mark.parametrize(
    ("graphed", "expected"),
    [
        (replace(SAME, captured=0), ["no step was captured: no shape recurred"]),
        (
            replace(SAME, losses=changed(SAME.losses, (1, 0), 0.50000006)),
            ["1 of 4 losses differ, the first at step 2, task 1: 0.5 without graphs, 0.50000006 with"],
        ),
        (
            replace(SAME, weights=SAME.weights | {"heads": changed(SAME.weights["heads"], 1, -0.0)}),
            ["1 of 3 weights differ in the end: heads"],
        ),
    ],
)
def test_whatever_differs_has_a_line(graphed, expected):
    assert differences(SAME, graphed) == expected


def test_losses_that_are_not_finite_are_no_success_though_they_are_the_same():
    spoilt = replace(SAME, losses=SAME.losses * torch.nan)
    assert differences(spoilt, spoilt) == ["losses are not finite without graphs"]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_it_is_bad_input(monkeypatch):
    monkeypatch.setattr(captured_steps, "splits_of_lengths", lambda lengths: peer_splits())
    with pytest.raises(InputError, match="--cuda-graphs on: this is no CUDA device"):
        main(["--steps", "1", "--batch", "1"])


@pytest.mark.slow
@pytest.mark.parametrize("other_seed", [False, True])
def test_two_trainings_are_compared_step_by_step(monkeypatch, capsys, other_seed):
    def twice(case, splits, steps, cuda_graphs):
        monkeypatch.setattr(
            "concord.train.steps.loop.Trainer._seed_of", lambda self, step: step + (other_seed and cuda_graphs == "on")
        )
        return replace(train(case, splits, steps, "off"), captured=1)

    monkeypatch.setattr(captured_steps, "splits_of_lengths", lambda lengths: peer_splits())
    monkeypatch.setattr(captured_steps, "train", twice)
    monkeypatch.setitem(captured_steps.MODELS, "MiniLM", small())
    assert main(["--steps", "2", "--batch", "2"]) == int(other_seed)
    printed = capsys.readouterr().out
    same = "MiniLM: 2 steps, 1 graphs: losses and weights are the same bits with and without"
    assert (printed.strip() == same) != other_seed
    assert ("losses differ, the first at step " in printed) == other_seed


def small():
    return replace(captured_steps.MODELS["MiniLM"], num_hidden_layers=1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_steps_of_a_small_model_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(captured_steps, "splits_of_lengths", lambda lengths: peer_splits())
    monkeypatch.setitem(captured_steps.MODELS, "MiniLM", small())
    assert main(["--steps", "12", "--batch", "4"]) == 0
