"""The update that Concord makes of a batch, and the one that a peer does, for the proofs that they are the same.

On a GPU that is proved of what is measured there: Concord's kernels against the peers on the device, in fp32, and in
bf16 under autocast, where Concord may be at most twice as far from the fp32 update as the peer is.
"""

import numpy as np
import pytest
import torch

from bench.peers.padded import PaddedModel, pad
from concord.bert.models import load_model, minilm_directory
from concord.bert.weights import to_hugging_face
from concord.train.data.datasets import load_datasets, run_tasks
from concord.train.data.sampler import JointSampler
from concord.train.reporter import SILENT
from concord.train.steps.build import build_model, build_optimizer, build_trainer, load_pretrained
from concord.train.steps.precision import choose_precision
from tests.assertions import assert_as_accurate, assert_close
from tests.kernels.parity import DEVICE
from tests.settings import fine_tuning

# With two tasks a row meets one other only, and orders play no part.
TASKS = ("paraphrase", "sts")
NEEDS_CUDA = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


def config_of(**more):
    """A run without dropout on the tests' device."""
    return fine_tuning(
        tasks=TASKS,
        batch_size=6,
        device=DEVICE,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        head_dropout=0.0,
        learning_rate=1e-4,
        **more,
    )


def peer_splits():
    """The training examples of both tasks."""
    config = config_of().data
    tokenizer = load_model("minilm", seed=1).tokenizer
    return load_datasets(config, run_tasks(config), tokenizer, None, SILENT, splits=("train",)).train


def concord_gradients(config, splits, amp="off"):
    """The peers' name of a parameter -> the merged and clipped gradient; and the heads' weights before the step."""
    precision = choose_precision(DEVICE, amp)
    model = build_model(config, run_tasks(config.data), load_pretrained(config.model).encoder, precision)
    optimizer = build_optimizer(config, model, precision)
    heads = {name: value.clone() for name, value in model.private.values().items()}
    next(build_trainer(config, model, optimizer, splits, precision.device).epoch(0))
    assert config.surgery.rule == "none" or optimizer.state.conflicts[-1, 0, 1] == 1, "the test must exercise surgery"
    found = {
        flat_name: flat.view(flat.momentum, entry) / (1 - optimizer.settings.beta1)
        for flat in (model.shared, model.private)
        for entry in flat.entries
        for flat_name in [entry.name]
    }
    private = {name: found.pop(name) for name in heads}
    encoder = {f"encoder.{name}": value for name, value in to_hugging_face(found).items()}
    return encoder | {f"heads.{name}": value for name, value in private.items()}, heads


def peer_gradients(make, splits, heads, attention, amp=None, steps=1):
    """The same of the trainer that `make` makes of a padded model with these heads, in its last step.

    amp: autocast's dtype, or None; steps: on the same batch, at a rate of zero, so that each has the same gradients.
    """
    outputs = {name: split.task.classes for name, split in splits.items()}
    kinds = {name: split.task.kind for name, split in splits.items()}
    model = PaddedModel(minilm_directory(), outputs, kinds, attention=attention, dropout=0.0).to(DEVICE)
    model.heads.load_state_dict(heads)
    sampler = JointSampler({task: len(split) for task, split in splits.items()}, batch_size=6, accumulate=1, seed=1)
    examples = next(iter(sampler.epoch(0)))[0]
    batches = {task: pad(split, np.asarray(examples[task]), DEVICE) for task, split in splits.items()}
    trainer = make(model, learning_rate=0.0, amp=amp)
    for _ in range(steps):
        trainer.step(batches)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def check_update(make, attention, options, splits, steps=1):
    """Fail where a peer's merged gradient is another than Concord's, in fp32, in its last of some steps."""
    expected, heads = concord_gradients(config_of(**options), splits)
    found = peer_gradients(make, splits, heads, attention, steps=steps)
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        # Keys' biases have no gradient but rounding: softmax does not see them.
        if not name.endswith("key.bias"):
            assert_close(found[name], gradient, 2e-4)


def check_update_in_bf16(make, attention, options, splits, steps=1):
    """Fail where Concord's merged gradient in bf16 is more than twice as far from that in fp32 as the peer's is."""
    exact, heads = concord_gradients(config_of(**options), splits)
    found, _ = concord_gradients(config_of(**options), splits, "bf16")
    same_dtype = peer_gradients(make, splits, heads, attention, torch.bfloat16, steps)
    whole = [torch.cat([one[name].flatten() for name in exact]) for one in (found, same_dtype, exact)]
    assert_as_accurate(*whole, torch.bfloat16)
