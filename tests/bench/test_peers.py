"""Each peer computes Concord's update, or its answers: benchmarks of different computations would be worth nothing."""

from functools import partial

import numpy as np
import pytest
import torch

from bench.lengths import first_examples
from bench.peers.evaluator import PaddedEvaluator
from bench.peers.faithful import FaithfulTrainer
from bench.peers.padded import PaddedModel
from bench.peers.stock import StockTrainer
from concord.bert.models import minilm_directory
from concord.train.data.datasets import run_tasks
from concord.train.steps.build import build_model, load_pretrained
from concord.train.steps.evaluation import predict
from concord.train.steps.precision import choose_precision
from tests.assertions import assert_as_accurate
from tests.bench.peer_updates import NEEDS_CUDA, check_update, check_update_in_bf16, config_of
from tests.kernels.parity import DEVICE

# Its trainer, attention, and what Concord is asked to do alike.
EACH = pytest.mark.parametrize(
    ("make", "attention", "options"),
    [
        pytest.param(
            FaithfulTrainer,
            "eager",
            {"surgery": "pcgrad", "surgery_scope": "all", "reduction": "mean"},
            id="faithful",
        ),
        pytest.param(StockTrainer, "sdpa", {"surgery": "pcgrad"}, id="best of stock"),
        pytest.param(partial(StockTrainer, surgery=False), "sdpa", {}, id="plain sum"),
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


def answers(splits, amp):
    """Concord's and the padded evaluator's answers to the same examples."""
    config, precision = config_of(), choose_precision(DEVICE, amp)
    model = build_model(config, run_tasks(config.data), load_pretrained(config.model).encoder, precision)
    split = first_examples(splits["sts"], 21)
    outputs = {name: split.task.classes for name, split in splits.items()}
    padded = PaddedModel(minilm_directory(), outputs, {}, attention="sdpa")
    padded.heads.load_state_dict(model.private.values())
    evaluator = PaddedEvaluator(padded.to(DEVICE, precision.compute_dtype), split, 8, precision.device)
    assert evaluator.computed_tokens > len(split.ids)
    return predict(model, split, precision.device), evaluator.predict()


def test_the_padded_evaluators_answers_are_ours(splits):
    expected, found = answers(splits, "off")
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.cuda
@NEEDS_CUDA
def test_in_bf16_our_answers_are_as_accurate_as_the_padded_evaluators(splits):
    exact, _ = answers(splits, "off")
    assert_as_accurate(*map(torch.from_numpy, (*answers(splits, "bf16"), exact)), torch.bfloat16)
