"""A parameter that autograd trains by itself is found in the first backward, and named."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from concord.bert.encoder import Encoder, EncoderOutput
from concord.bert.heads import Head
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.multitask import MultitaskModel
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.data.batches import gather
from concord.train.data.tasks import select_tasks
from concord.train.objectives.objectives import build_objectives
from concord.train.settings.config import RunConfig
from concord.train.settings.typed import pretraining_config
from concord.train.steps.deposits import check_deposits
from concord.train.steps.frozen import FrozenBatches
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import choose_precision
from concord.train.steps.pretraining import Pretrainer
from concord.train.steps.step import TrainingStep
from tests.samples import SMALL, random_split
from tests.settings import fine_tuning

TASKS = select_tasks(["sst", "sts"], None)
NAMED = "parameter scale: autograd gave it a gradient of its own"


class Scaled(Encoder):
    """An encoder with a layer of plain torch, which has one gradient for all tasks together."""

    def __init__(self):
        super().__init__(SMALL)
        self.scale = nn.Parameter(torch.ones(SMALL.hidden_size))

    def forward(self, *inputs, **options):
        found = super().forward(*inputs, **options)
        return EncoderOutput(found.hidden, found.pooled * self.scale)

    def states(self, *inputs, **options):
        return super().states(*inputs, **options) * self.scale


def make(encoder):
    """A step on the small model, its batch, and the model."""
    encoder.initialise(1)
    heads = {task.name: Head(32, task.classes, pair=False, dropout=0.0) for task in TASKS}
    for head in heads.values():
        head.initialise(torch.Generator().manual_seed(1))
    model = MultitaskModel(encoder, heads)
    optimizer = SurgeryOptimizer(
        model.shared,
        model.private,
        model.tasks,
        settings=SurgerySettings(method="pcgrad"),
        shared_rates=1e-3,
        private_rates=1e-3,
    )
    splits = {task.name: random_split(task, 4, seed=number) for number, task in enumerate(TASKS)}
    config = fine_tuning(tasks=tuple(splits), device="cpu")
    objectives = build_objectives(config.objectives, config.data.pair_encoding, TASKS, dict.fromkeys(splits, 4))
    step = TrainingStep(model, optimizer, objectives)
    inputs = {"seed": torch.tensor(5), "rate_factor": torch.ones(()), "epoch": torch.tensor(0.0)}
    examples = {name: np.arange(4) for name in splits}
    return model, splits, examples, lambda batch: step([batch], dict.fromkeys(splits, 4), **inputs)


def test_a_plain_parameter_of_the_encoder_is_named_in_the_first_step():
    _, splits, examples, step = make(Scaled())
    with pytest.raises(RuntimeError, match=NAMED):
        step(gather(splits, examples))


def test_it_is_named_in_the_first_step_that_the_encoder_takes_part_in():
    model, splits, examples, step = make(Scaled())
    frozen = FrozenBatches(model, splits, examples, torch.device("cpu"))
    step(frozen.gather(examples))
    with pytest.raises(RuntimeError, match=NAMED):
        step(gather(splits, examples))


def test_the_encoders_own_parameters_pass_and_are_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr("concord.train.steps.step.check_deposits", lambda found: asked.append(check_deposits(found)))
    model, splits, examples, step = make(Encoder(SMALL))
    for _ in range(3):
        step(gather(splits, examples))
    assert asked == [None]
    assert len(model.shared_parameters()) == len(model.shared.entries) > 40


def test_a_plain_parameter_is_named_in_pre_training():
    encoder, head = Scaled(), LanguageModelHead(SMALL)
    encoder.initialise(1)
    head.initialise(1)
    tokenizer = SimpleNamespace(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=SMALL.vocab_size)
    texts = [np.arange(5, 45, dtype=np.int32) for _ in range(6)]
    config = pretraining_config(RunConfig(learning_rate=1e-3, batch_size=2, epochs=1))
    trainer = Pretrainer(
        MaskedLanguageModel(encoder, head),
        tokenizer,
        texts,
        choose_precision("cpu", "off"),
        batches=config.batches,
        optimizer=config.optimizer,
        head_rate=1e-3,
    )
    with pytest.raises(RuntimeError, match=NAMED):
        next(trainer.steps(0))
