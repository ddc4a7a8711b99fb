"""What a rank keeps of the states, and what it sends in a step, are what sharded exact surgery needs, and no more."""

import pytest
import torch

from tests.train.ranks.launching import launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def measured(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    launch("tests.train.ranks.measured", request.param, folder)
    return request.param, [
        torch.load(folder / f"measured-{rank}.pt", weights_only=True) for rank in range(request.param)
    ]


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_a_rank_keeps_its_share_of_the_states_and_at_most_a_twentieth_more(measured, dtype):
    """Master, both moments, and in low precision the piece that is sent out: all that is alive but the gradients and
    the weights that the forward reads."""
    size, found = measured
    for own in (each[dtype] for each in found):
        share = (12 * own["parameters"] + size * own["own_copy"]) / size
        assert own["states"] - own["private"] <= 1.05 * share
        assert own["states"] >= share


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_a_step_sends_a_unit_for_each_task_and_one_for_the_weights(measured, dtype):
    size, found = measured
    for own in (each[dtype] for each in found):
        unit = own["parameters"] * own["element"] * (size - 1) / size
        assert sum(own["sent"].values()) / unit == pytest.approx(own["tasks"] + 1, rel=0.02)
        assert own["sent"]["gradients"] / unit == pytest.approx(own["tasks"], rel=0.01)
        assert own["sent"]["weights"] / unit == pytest.approx(1, rel=0.01)
