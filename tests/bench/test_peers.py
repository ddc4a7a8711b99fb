"""Each peer computes Concord's update, or its answers: benchmarks of different computations would be worth nothing.

On a GPU that is proved of what is measured there: Concord's kernels against the peers on the device, in fp32, and in
bf16 under autocast, where Concord may be at most twice as far from the fp32 update as the peer is.
"""

from functools import partial

import numpy as np
import pytest
import torch

from bench.lengths import first_examples
from bench.peers.evaluator import PaddedEvaluator
from bench.peers.faithful import FaithfulTrainer
from bench.peers.padded import PaddedModel, pad
from bench.peers.stock import StockTrainer
from bench.peers.torchjd_trainer import TorchJDTrainer
from bert.models import load_model, minilm_directory
from bert.weights import to_hugging_face
from tests.kernels.parity import DEVICE
from tests.tolerances import assert_as_accurate, assert_close
from train.build import build_model, build_optimizer, load_pretrained
from train.config import RunConfig
from train.datasets import load_datasets, run_tasks
from train.evaluation import predict
from train.loop import Trainer
from train.precision import choose_precision
from train.sampler import JointSampler

# With two tasks a row meets one other only, and orders play no part.
TASKS = ("paraphrase", "sts")
NEEDS_CUDA = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


def config_of(**more):
    return RunConfig(
        tasks=TASKS,
        batch_size=6,
        device=DEVICE,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        head_dropout=0.0,
        learning_rate=1e-4,
        **more,
    )


@pytest.fixture(scope="module")
def splits():
    config = config_of()
    tokenizer = load_model("minilm", seed=1).tokenizer
    return load_datasets(config, run_tasks(config), tokenizer, None, print, splits=("train",)).train


def concord_gradients(config, splits, amp="off"):
    """The peers' name of a parameter -> the merged and clipped gradient; and the heads' weights before the step."""
    precision = choose_precision(DEVICE, amp)
    model = build_model(config, run_tasks(config), load_pretrained(config).encoder, precision)
    optimizer = build_optimizer(config, model, precision)
    heads = {name: value.clone() for name, value in model.private.values().items()}
    next(Trainer(config, model, optimizer, splits, precision.device).epoch(0))
    assert config.surgery == "none" or optimizer.state.conflicts[-1, 0, 1] == 1, "the test must exercise surgery"
    found = {
        flat_name: flat.view(flat.momentum, entry) / (1 - optimizer.settings.beta1)
        for flat in (model.shared, model.private)
        for entry in flat.entries
        for flat_name in [entry.name]
    }
    private = {name: found.pop(name) for name in heads}
    encoder = {f"encoder.{name}": value for name, value in to_hugging_face(found).items()}
    return encoder | {f"heads.{name}": value for name, value in private.items()}, heads


def peer_gradients(make, splits, heads, attention, amp=None):
    outputs = {name: split.task.classes for name, split in splits.items()}
    kinds = {name: split.task.kind for name, split in splits.items()}
    model = PaddedModel(minilm_directory(), outputs, kinds, attention=attention, dropout=0.0).to(DEVICE)
    model.heads.load_state_dict(heads)
    sampler = JointSampler({task: len(split) for task, split in splits.items()}, batch_size=6, accumulate=1, seed=1)
    examples = next(iter(sampler.epoch(0)))[0]
    batches = {task: pad(split, np.asarray(examples[task]), DEVICE) for task, split in splits.items()}
    make(model, learning_rate=1e-4, amp=amp).step(batches)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def each_peer(test):
    """Its trainer, attention, and what Concord is asked to do alike."""
    pcgrad = {"surgery": "pcgrad"}
    as_the_papers = {**pcgrad, "surgery_scope": "all", "reduction": "mean"}
    peers = [
        pytest.param(FaithfulTrainer, "eager", as_the_papers, id="faithful"),
        pytest.param(StockTrainer, "sdpa", pcgrad, id="best of stock"),
        pytest.param(partial(StockTrainer, surgery=False), "sdpa", {}, id="plain sum"),
        pytest.param(partial(TorchJDTrainer, gramian=False), "sdpa", pcgrad, id="TorchJD, Jacobian"),
        pytest.param(partial(TorchJDTrainer, gramian=True), "sdpa", pcgrad, id="TorchJD, Gramian"),
    ]
    return pytest.mark.parametrize(("make", "attention", "options"), peers)(test)


@each_peer
def test_the_peers_merged_gradient_is_ours(make, attention, options, splits):
    expected, heads = concord_gradients(config_of(**options), splits)
    found = peer_gradients(make, splits, heads, attention)
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        # Keys' biases have no gradient but rounding: softmax does not see them.
        if not name.endswith("key.bias"):
            assert_close(found[name], gradient, 2e-4)


@pytest.mark.cuda
@NEEDS_CUDA
@each_peer
def test_in_bf16_ours_is_as_accurate_as_the_peers(make, attention, options, splits):
    exact, heads = concord_gradients(config_of(**options), splits)
    found, _ = concord_gradients(config_of(**options), splits, "bf16")
    same_dtype = peer_gradients(make, splits, heads, attention, torch.bfloat16)
    whole = [torch.cat([one[name].flatten() for name in exact]) for one in (found, same_dtype, exact)]
    assert_as_accurate(*whole, torch.bfloat16)


def answers(splits, amp):
    """Concord's and the padded evaluator's answers to the same examples."""
    config, precision = config_of(), choose_precision(DEVICE, amp)
    model = build_model(config, run_tasks(config), load_pretrained(config).encoder, precision)
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
