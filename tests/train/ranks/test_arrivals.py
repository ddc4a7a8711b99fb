"""Updated weights that are on their way while the next step begins: each layer waits for its own."""

from dataclasses import dataclass, field

import pytest
import torch

from concord.train.ranks.group import Ranks
from concord.train.steps.optimizer import SurgeryOptimizer
from tests.train.ranks.parity import build, steps_of, whole_master


class Late:
    """Something sent that arrives no sooner than somebody waits for it, and is nonsense until then; until it does, its
    source must stay as it is."""

    def __init__(self, place, source, events):
        self._place, self._source, self._events = place, source if source is not place else None, events
        self._values = source.clone()
        place.fill_(torch.nan)

    def wait(self):
        assert self._source is None or torch.equal(self._source, self._values)
        self._place.copy_(self._values)
        self._events.append("arrived")


@dataclass(frozen=True)
class SlowRanks(Ranks):
    """One rank that sends to itself."""

    events: list = field(default_factory=list)

    def add_up(self, tensor):
        return tensor

    def most(self, tensor):
        return tensor

    def begin_to_add_up(self, tensor):
        return Late(tensor, tensor, [])

    def scatter_sums(self, piece, whole):
        return Late(piece, whole, [])

    def gather(self, whole, piece):
        return Late(whole, piece, self.events)

    def collect(self, piece):
        return piece

    def deal(self, piece, whole):
        piece.copy_(whole)


def new_ranks():
    return SlowRanks(rank=0, size=1, group=None, host=None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"amp": "bf16"},
        {"pooling": "mean", "shared_layer": ("sst", "sts")},
        {"pals": 12},
        {"smart": ("sst=1",)},
        {"stages": ("all:1", "heads:1", "all:8")},
        {"average": 0.5},
    ],
    ids=str,
)
def test_late_weights_change_nothing(settings):
    late, alone = (build({"surgery": "pcgrad", **settings}, ranks, dropout=0.1) for ranks in (new_ranks(), None))
    for found, expected in zip(steps_of(late, 9), steps_of(alone, 9), strict=True):
        assert torch.equal(torch.stack(list(found.losses.values())), torch.stack(list(expected.losses.values())))
        assert torch.equal(found.plan.gram, expected.plan.gram)
    with late.optimizer.averaged(), alone.optimizer.averaged():
        assert torch.equal(whole_master(late), whole_master(alone))
        for name, parameter in alone.model.encoder.named_parameters():
            assert torch.equal(late.model.encoder.get_parameter(name), parameter)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_each_layer_waits_for_its_own_weights(pooling):
    ranks = new_ranks()
    trainer = build({"surgery": "pcgrad", "pooling": pooling, "average": 0.0}, ranks)
    encoder, events = trainer.model.encoder, ranks.events
    steps = steps_of(trainer, 2)
    next(steps)
    events.clear()
    encoder.embeddings.register_forward_hook(lambda *_: events.append("embeddings"))
    for number, layer in enumerate(encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: events.append(f"layer {number}"))
    next(steps)
    events = events[: events.index("layer 1") + 1]
    # The last layer's come with the pooler's, when the layer below is done.
    assert events == ["arrived", *("arrived", "embeddings"), *("arrived", "layer 0"), *("arrived",) * 2, "layer 1"]


@pytest.mark.parametrize(
    "read", [SurgeryOptimizer.gather_master, lambda optimizer: optimizer.freeze(())], ids=["written", "frozen"]
)
def test_a_step_leaves_its_weights_on_their_way_and_the_model_is_whole_where_it_is_read(read):
    ranks = new_ranks()
    trainer = build({"surgery": "pcgrad", "average": 0.0}, ranks)
    next(steps_of(trainer, 1))
    assert ranks.events == []
    assert trainer.model.encoder.pooler.weight.isnan().all()
    read(trainer.optimizer)
    assert all(parameter.isfinite().all() for parameter in trainer.model.encoder.parameters())


def test_a_rank_without_an_example_does_not_change_what_is_still_being_sent():
    ranks = new_ranks()
    trainer = build({"surgery": "pcgrad"}, ranks)
    next(steps_of(trainer, 1))
    exchange, arrived = trainer.optimizer._exchange, len(trainer.optimizer._own.parts)
    trainer.optimizer.zero_shared_gradients()
    exchange.reduce(trainer.optimizer.private, shared=True)
    assert len(ranks.events) == arrived
