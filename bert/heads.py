"""Task heads: a linear map of the pooled output, or of two of them, to one task's logits."""

import torch
from torch import Tensor, nn

from kernels import DropoutStream


class Head(nn.Module):
    """Dropout and a linear layer, in fp32; the parameters belong to one task and take ordinary gradients.

    Args:
        hidden_size: of the encoder.
        outputs: logits a task.
        pair: whether an example is two sequences, encoded one by one: u and v. The features are then u, v and |u - v|
            side by side (Reimers and Gurevych, 2019), since a linear map of u and v alone cannot compare them.
        dropout: rate on the features.
        centre: what a new head answers before training: the biases' first value.
    """

    def __init__(self, hidden_size: int, outputs: int, *, pair: bool, dropout: float, centre: float = 0.0) -> None:
        super().__init__()
        self.pair = pair
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(outputs, hidden_size * (3 if pair else 1)))
        self.bias = nn.Parameter(torch.full((outputs,), centre))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights, normal with deviation 0.02."""
        self.weight.copy_(torch.normal(0.0, 0.02, self.weight.shape, generator=generator))

    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Logits fp32 [examples, outputs] of pooled outputs [examples or 2 * examples, hidden] in any dtype."""
        features = pooled.to(self.weight.dtype)
        if self.pair:
            first, second = features[0::2], features[1::2]
            features = torch.cat([first, second, (first - second).abs()], dim=1)
        dropout = dropouts(self.dropout) if dropouts else None
        if dropout is not None:
            features = features * dropout.mask(tuple(features.shape), features.dtype)
        return nn.functional.linear(features, self.weight, self.bias)
