"""The compiled peers compute Concord's update, in the step in which they replay CUDA graphs too."""

from functools import partial

import pytest

from bench.peers.stock import StockTrainer
from tests.bench.peer_updates import NEEDS_CUDA, check_update, check_update_in_bf16

pytestmark = [pytest.mark.cuda, NEEDS_CUDA]
EACH = pytest.mark.parametrize(
    "make", [pytest.param(partial(StockTrainer, compile_mode=mode), id=mode) for mode in ("default", "reduce-overhead")]
)
STEPS = 4  # the first compile and warm up, the next record the graphs, and the last replay them


@EACH
def test_the_peers_merged_gradient_is_ours(make, splits):
    check_update(make, "sdpa", {"surgery": "pcgrad"}, splits, STEPS)


@EACH
def test_in_bf16_ours_is_as_accurate_as_the_peers(make, splits):
    check_update_in_bf16(make, "sdpa", {"surgery": "pcgrad"}, splits, STEPS)
