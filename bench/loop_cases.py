"""Surgery in a training loop of one's own: what is measured, and who takes the step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import BertConfig

from bench.peers.faithful import FaithfulTrainer
from bench.peers.images import ImageModel, image_batch
from bench.peers.padded import PaddedBatch, PaddedModel
from bench.peers.stock import StockTrainer
from bench.peers.torchjd_trainer import TorchJDTrainer
from concord.train.surgery import PCGrad

EXAMPLES, TOKENS, SIDE = 8, 64, 64  # a task's examples, their tokens, and an image's side
_SHAPES = {
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {},
}
MODELS = (*_SHAPES, "ResNet-50")
APART = ("BERT-base",)
"""Models whose contestants do not fit side by side into a CPU's memory: each is there during its own turn alone."""
MOST_BYTES = 13 * 2**30
"""What a contestant may take of a CPU's memory where it is measured by itself."""
# At their peak TorchJD's hold 25 and 27 copies of the parameters (measured with MiniLM, eight tasks of few tokens), the
# literal library five a task, and all of them eight graphs of half a GB: 15 GB and more.
_LARGER = {(name, "BERT-base", 8) for name in ("literal library", "TorchJD, Jacobian", "TorchJD, Gramian")}


class LoopTrainer:
    """The wrapper's loop: a function a task, one graph alive at a time, clipping, fused AdamW.

    Args:
        model: called with a task and its batch, it gives the loss.
        merges: whether to merge and step; otherwise the backwards alone are done, and their gradients let go.
        options: of `PCGrad`.
    """

    def __init__(self, model: nn.Module, *, learning_rate: float, merges: bool = True, **options: Any) -> None:
        self.model, self._merges = model, merges
        self.parameters = list(model.parameters())
        self.optimizer = PCGrad(torch.optim.AdamW(self.parameters, lr=learning_rate, fused=True), **options)

    def step(self, batches: Mapping[str, Any]) -> None:
        """One training step over a batch of every task."""
        if not self._merges:
            for task, batch in batches.items():
                torch.autograd.grad(self.model(task, batch), self.parameters, allow_unused=True)
            return
        self.optimizer.zero_grad()
        self.optimizer.pc_backward({task: partial(self.model, task, batch) for task, batch in batches.items()})
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()


TRAINERS: dict[str, Callable[..., Any]] = {
    "concord": LoopTrainer,
    "literal library": FaithfulTrainer,
    "TorchJD, Jacobian": partial(TorchJDTrainer, gramian=False),
    "TorchJD, Gramian": partial(TorchJDTrainer, gramian=True),
    "flat torch": StockTrainer,
    "plain sum": partial(StockTrainer, surgery=False),
    "the backwards alone": partial(LoopTrainer, merges=False),
}


def applies(name: str, model: str) -> bool:
    """Whether a trainer takes a model: TorchJD's Gramian engine takes each example by itself, batch norms none."""
    return name != "TorchJD, Gramian" or model != "ResNet-50"


def fits(name: str, model: str, tasks: int) -> bool:
    """Whether a trainer's step takes at most `MOST_BYTES`, as it has to on a CPU."""
    return (name, model, tasks) not in _LARGER


def build_loop(name: str, model: str, tasks: int, device: torch.device) -> Callable[[], None]:
    """A function that does one step of this trainer on one batch a task, of random weights."""
    torch.manual_seed(0)
    names = [f"task {number}" for number in range(tasks)]
    if model == "ResNet-50":
        network: nn.Module = ImageModel(names)
        batches: dict[str, Any] = {task: image_batch(EXAMPLES, SIDE, device) for task in names}
    else:
        kinds = dict.fromkeys(names, "regression")
        network = PaddedModel(
            BertConfig(**_SHAPES[model]), dict.fromkeys(names, 1), kinds, attention="sdpa", dropout=0.0
        )
        batches = {task: _text_batch(device) for task in names}
    trainer = TRAINERS[name](network.to(device), learning_rate=1e-5)
    return partial(trainer.step, batches)


def _text_batch(device: torch.device) -> PaddedBatch:
    ids = torch.randint(1000, 30000, (EXAMPLES, TOKENS), device=device)
    return PaddedBatch(ids, torch.zeros_like(ids), torch.ones_like(ids), torch.rand(EXAMPLES, device=device))
