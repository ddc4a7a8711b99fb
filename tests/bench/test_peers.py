"""Each peer computes Concord's update, or its answers: benchmarks of different computations would be worth nothing."""

import numpy as np
import pytest

from bench.lengths import first_examples
from bench.peers.evaluator import PaddedEvaluator
from bench.peers.faithful import FaithfulTrainer
from bench.peers.padded import PaddedModel, pad
from bench.peers.stock import StockTrainer
from bench.peers.torchjd_trainer import TorchJDTrainer
from bert.models import load_model, minilm_directory
from bert.weights import to_hugging_face
from tests.tolerances import assert_close
from train.build import build_model, build_optimizer, load_pretrained
from train.config import RunConfig
from train.datasets import load_datasets, run_tasks
from train.evaluation import predict
from train.loop import Trainer
from train.precision import choose_precision
from train.sampler import JointSampler

# With two tasks a row meets one other only, and orders play no part.
TASKS = ("paraphrase", "sts")


def config_of(**more):
    return RunConfig(
        tasks=TASKS,
        batch_size=6,
        device="cpu",
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


def concord_gradients(config, splits):
    """Hugging Face's name, or the head's -> the merged and clipped gradient; and the heads' weights before the step."""
    precision = choose_precision("cpu", "off")
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
    return to_hugging_face(found) | {f"heads.{name}": value for name, value in private.items()}, heads


def peer_gradients(make, splits, heads, attention):
    outputs = {name: split.task.classes for name, split in splits.items()}
    kinds = {name: split.task.kind for name, split in splits.items()}
    model = PaddedModel(minilm_directory(), outputs, kinds, attention=attention, dropout=0.0)
    model.heads.load_state_dict(heads)
    sampler = JointSampler({task: len(split) for task, split in splits.items()}, batch_size=6, accumulate=1, seed=1)
    examples = next(iter(sampler.epoch(0)))[0]
    make(model).step({task: pad(split, np.asarray(examples[task]), "cpu") for task, split in splits.items()})
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("make", "attention", "options"),
    [
        pytest.param(
            lambda model: FaithfulTrainer(model, learning_rate=1e-4),
            "eager",
            {"surgery": "pcgrad", "surgery_scope": "all", "reduction": "mean"},
            id="faithful",
        ),
        pytest.param(
            lambda model: StockTrainer(model, learning_rate=1e-4), "sdpa", {"surgery": "pcgrad"}, id="best of stock"
        ),
        pytest.param(lambda model: StockTrainer(model, learning_rate=1e-4, surgery=False), "sdpa", {}, id="plain sum"),
        pytest.param(
            lambda model: TorchJDTrainer(model, learning_rate=1e-4, gramian=False),
            "sdpa",
            {"surgery": "pcgrad"},
            id="TorchJD, Jacobian",
        ),
        pytest.param(
            lambda model: TorchJDTrainer(model, learning_rate=1e-4, gramian=True),
            "sdpa",
            {"surgery": "pcgrad"},
            id="TorchJD, Gramian",
        ),
    ],
)
def test_the_peers_merged_gradient_is_ours(make, attention, options, splits):
    expected, heads = concord_gradients(config_of(**options), splits)
    found = peer_gradients(make, splits, heads, attention)
    names = [f"encoder.{name}" if not name.startswith("heads.") else name for name in expected]
    assert set(names) == set(found)
    for name, gradient in zip(names, expected.values(), strict=True):
        # Keys' biases have no gradient but rounding: softmax does not see them.
        if not name.endswith("key.bias"):
            assert_close(found[name], gradient, 2e-4)


def test_the_padded_evaluators_answers_are_ours(splits):
    config = config_of()
    precision = choose_precision("cpu", "off")
    model = build_model(config, run_tasks(config), load_pretrained(config).encoder, precision)
    split = first_examples(splits["sts"], 21)
    outputs = {name: split.task.classes for name, split in splits.items()}
    padded = PaddedModel(minilm_directory(), outputs, {}, attention="sdpa")
    padded.heads.load_state_dict(model.private.values())
    evaluator = PaddedEvaluator(padded, split, 8, precision.device)
    expected = predict(model, split, precision.device)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(evaluator.predict(), expected, atol=1e-4)
    assert evaluator.computed_tokens > len(split.ids)
