"""The trainers of a loop of one's own take the same step: they are measured against each other."""

import copy

import pytest
import torch

from bench.loop_cases import TRAINERS, LoopTrainer, applies
from bench.peers.images import ImageModel, image_batch
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE

TASKS = ("first", "second")  # in whichever order two tasks meet, it is the same


def small(batch_norm):
    torch.manual_seed(0)
    model = ImageModel(TASKS, stages=((4, 1), (4, 2))).to(DEVICE)
    model.heads["second"].load_state_dict(model.heads["first"].state_dict())
    if not batch_norm:
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.BatchNorm2d):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, torch.nn.Identity())
    return model


@pytest.mark.parametrize(
    "name", [name for name in TRAINERS if name not in ("concord", "plain sum", "the backwards alone")]
)
def test_a_trainer_takes_the_wrappers_step(name):
    """The literal library's dot products span the heads, and it takes means; the others project what is shared."""
    whole = name == "literal library"
    options = {"scope": "all"} if whole else {"reduction": "sum"}
    model = small(batch_norm=applies(name, "ResNet-50") and "TorchJD" not in name)
    models = model, copy.deepcopy(model)
    batches = {task: image_batch(4, 16, DEVICE) for task in TASKS}
    for task, label in zip(TASKS, (3.0, -3.0), strict=True):
        batches[task].labels.fill_(label)
    ours, theirs = LoopTrainer(models[0], learning_rate=0.1, **options), TRAINERS[name](models[1], learning_rate=0.1)
    for trainer in (ours, theirs):
        trainer.step(batches)
    assert ours.optimizer.statistics().conflicts == 1
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(mine.grad, other.grad, 1e-4)


def test_the_backwards_alone_change_nothing():
    model = small(batch_norm=False)
    before = copy.deepcopy(model.state_dict())
    LoopTrainer(model, learning_rate=0.1, merges=False).step({task: image_batch(4, 16, DEVICE) for task in TASKS})
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
