"""The stock peer's gradients outlive the memory that a compiled backward leaves them in."""

import pytest
import torch
from torch import nn

from bench.peers.stock import StockTrainer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.heads = nn.ModuleDict({"one": nn.Linear(4, 1), "two": nn.Linear(4, 2)})

    def forward(self, task, batch):
        return self.heads[task](self.encoder(batch)).square().mean()


@pytest.mark.parametrize("compile_mode", [None, "reduce-overhead"])
def test_the_heads_gradients_are_copies_where_the_model_is_compiled(compile_mode, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda model, **options: model)
    model, left = Model(), {}

    def keep(leaf):
        left[leaf] = leaf.grad

    for parameter in model.heads.parameters():
        parameter.register_post_accumulate_grad_hook(keep)
    trainer = StockTrainer(model, learning_rate=0.1, compile_mode=compile_mode)
    trainer.step({task: torch.randn(5, 3) for task in model.heads})
    assert len(left) == 4
    copied = [parameter.grad.data_ptr() != gradient.data_ptr() for parameter, gradient in left.items()]
    assert copied == [compile_mode is not None] * 4
