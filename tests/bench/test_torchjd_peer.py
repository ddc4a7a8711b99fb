"""TorchJD's peer computes Concord's update, from the Jacobian and from the Gramian."""

from functools import partial

import pytest

from bench.peers.torchjd_trainer import TorchJDTrainer
from tests.bench.peer_updates import NEEDS_CUDA, check_update, check_update_in_bf16

EACH = pytest.mark.parametrize(
    ("make", "attention", "options"),
    [
        pytest.param(partial(TorchJDTrainer, gramian=gramian), "sdpa", {"surgery": "pcgrad"}, id=name)
        for name, gramian in (("Jacobian", False), ("Gramian", True))
    ],
)


@pytest.mark.slow
@EACH
def test_the_peers_merged_gradient_is_ours(make, attention, options, splits):
    check_update(make, attention, options, splits)


@pytest.mark.cuda
@NEEDS_CUDA
@EACH
def test_in_bf16_ours_is_as_accurate_as_the_peers(make, attention, options, splits):
    check_update_in_bf16(make, attention, options, splits)
