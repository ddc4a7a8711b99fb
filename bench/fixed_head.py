"""A head that never learns and is the same for every task: what tasks want of the encoder they cannot settle there."""

import torch
from torch import Tensor
from torch.nn import functional

from concord.bert.heads import HeadSpec, TaskHead
from concord.kernels.dropout import DropoutStream

_SCALE = 4.0  # of the logits of outputs in [-1, 1], so that an encoder can be sure


class FixedHead(TaskHead):
    """Logits by a random matrix that all tasks share and that is no parameter; of one sequence an example.

    Args:
        hidden_size: of the encoder.
        outputs: logits an example.
    """

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__(None, False, False)
        weight = torch.randn(outputs, hidden_size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight * (_SCALE / hidden_size**0.5), persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """There is nothing to fill."""

    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Logits fp32 [examples, outputs] of pooled outputs [examples, hidden] in any dtype."""
        return functional.linear(pooled.to(self.weight.dtype), self.weight)


def fixed_head(spec: HeadSpec) -> FixedHead:
    """For `--heads bench.fixed_head:fixed_head`."""
    return FixedHead(spec.hidden_size, spec.outputs)
