"""Task heads: from the pooled output of a sequence, or of the two of a pair, to one task's logits."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from concord.kernels.dropout import DropoutStream, dropped
from concord.kernels.layout.rows import TaskRows
from concord.kernels.linear import linear

Link = Literal["softmax", "sigmoid", "identity"]
_WIDTHS = {
    "concatenation": 2,
    "difference": 3,
    "product": 4,
}  # columns of a pair's features, in multiples of the encoder's
_HIDDEN_LAYERS = 2


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What a task's head is.

    build: makes the head that this describes, such as `linear_head`.
    hidden_size: columns of the encoder.
    outputs: logits an example.
    pair: whether an example is two sequences that are encoded one by one.
    pair_features: what is read of such a pair: concatenation, difference or product, see `Head`.
    dropout: the rate on what the last layer reads.
    link: what makes answers of the logits, see `TaskHead`.
    centre: what a new head answers before training.
    learns_variance: whether the variance of the task's loss is learned.
    has_threshold: whether a threshold of a binary task is a part of the head.
    """

    build: Callable[["HeadSpec"], "TaskHead"]
    hidden_size: int
    outputs: int
    pair: bool
    pair_features: str
    dropout: float
    link: Link
    centre: float = 0.0
    learns_variance: bool = False
    has_threshold: bool = False


class TaskHead(nn.Module, ABC):
    """What all heads have; all parameters are one task's and take ordinary gradients.

    Attributes:
        link: what makes answers of the logits: softmax over classes, a sigmoid, or nothing, where a logit is the share
            of the task's range already; None for what suits the task's kind.
        log_variance: of the task's loss, fp32 [1], where it is learned, else None.
        threshold: fp32 [1], the share of the range above which a binary task's answer is 1, where it is found on the
            dev set and a part of the model; None for 0.5.
    """

    def __init__(self, link: Link | None, learns_variance: bool, has_threshold: bool) -> None:
        super().__init__()
        self.link = link
        self.log_variance = nn.Parameter(torch.zeros(1)) if learns_variance else None
        self.register_buffer("threshold", torch.full((1,), 0.5) if has_threshold else None)

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters with random weights from `generator`."""

    @abstractmethod
    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Logits fp32 [examples, outputs] of pooled outputs [examples, hidden].

        Of pairs that are encoded one by one these are [2 * examples, hidden], the two of each pair one after the other.
        dropouts: None for no dropout.
        """


class Head(TaskHead):
    """Hidden layers, dropout and a linear layer, in fp32.

    Args:
        hidden_size: of the encoder.
        outputs: logits a task.
        pair: whether an example is two sequences, encoded one by one: u and v.
        dropout: rate on what the last layer reads.
        centre: what a new head answers before training: the biases' first value.
        pair_features: what is read of a pair: u, v and |u - v| side by side (Reimers and Gurevych, 2019), since a
            linear map of u and v alone cannot compare them; "product", which is these and u * v (Conneau et al., 2017),
            of which a cosine is a sum; or "concatenation", which is u and v alone.
        hidden_layers: linear layers of the encoder's width, each with a ReLU, before the last one.
        link, learns_variance, has_threshold: see the attributes.
    """

    def __init__(
        self,
        hidden_size: int,
        outputs: int,
        *,
        pair: bool,
        dropout: float,
        centre: float = 0.0,
        pair_features: str = "difference",
        hidden_layers: int = 0,
        link: Link | None = None,
        learns_variance: bool = False,
        has_threshold: bool = False,
    ) -> None:
        super().__init__(link, learns_variance, has_threshold)
        self.pair, self.pair_features = pair, pair_features
        self.dropout = dropout
        width = hidden_size * (_WIDTHS[pair_features] if pair else 1)
        self.hidden = nn.ModuleList(
            nn.Linear(hidden_size if number else width, hidden_size) for number in range(hidden_layers)
        )
        self.weight = nn.Parameter(torch.empty(outputs, hidden_size if hidden_layers else width))
        self.bias = nn.Parameter(torch.full((outputs,), centre))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights: the last layer's normal with deviation 0.02, those before a ReLU as He et al. (2015)."""
        self.weight.copy_(torch.normal(0.0, 0.02, self.weight.shape, generator=generator))
        for layer in self.hidden:
            _initialise_before_relu(layer.weight, layer.bias, generator)

    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Logits fp32 [examples, outputs] of pooled outputs [examples or 2 * examples, hidden] in any dtype."""
        features = pooled.to(self.weight.dtype)
        if self.pair:
            first, second = features[0::2], features[1::2]
            compared = [(first - second).abs(), first * second][: _WIDTHS[self.pair_features] - 2]
            features = torch.cat([first, second, *compared], dim=1)
        for layer in self.hidden:
            features = layer(features).relu()
        return functional.linear(_drop(features, self.dropout, dropouts), self.weight, self.bias)


class CosineHead(TaskHead):
    """The cosine of a pair's two pooled outputs u and v as the share of the task's range, in fp32.

    Without a map it is ReLU(cos(u, v)), which has no parameters. With one it is cos(Mu + b, Mv + b) of a learned linear
    map, with dropout on u and v.

    Args:
        hidden_size: of the encoder.
        mapped: whether there is a map.
        dropout: rate on what the map reads.
        learns_variance, has_threshold: see the attributes.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        mapped: bool,
        dropout: float,
        learns_variance: bool = False,
        has_threshold: bool = False,
    ) -> None:
        super().__init__("identity", learns_variance, has_threshold)
        self.map = nn.Linear(hidden_size, hidden_size) if mapped else None
        self.dropout = dropout

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights of the map, normal with deviation 0.02; biases 0."""
        if self.map is not None:
            self.map.weight.copy_(torch.normal(0.0, 0.02, self.map.weight.shape, generator=generator))
            self.map.bias.zero_()

    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Cosines fp32 [examples, 1] of pooled outputs [2 * examples, hidden]."""
        features = pooled
        if self.map is not None:
            features = self.map(_drop(features, self.dropout, dropouts))
        cosines = functional.cosine_similarity(features[0::2], features[1::2])[:, None]
        return cosines if self.map is not None else cosines.relu()


class SharedLayer(nn.Module):
    """A linear layer with a ReLU, hidden -> hidden, through which the heads of several tasks read the pooled output.

    Its parameters are shared by these tasks, and so take one gradient a task, as the encoder's do.

    Args:
        hidden_size: of the encoder.
        readers: the tasks whose heads read through it.
    """

    def __init__(self, hidden_size: int, readers: Sequence[str]) -> None:
        super().__init__()
        self.readers = tuple(readers)
        self.weight = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights as He et al. (2015), biases 0."""
        _initialise_before_relu(self.weight, self.bias, generator)

    def forward(self, pooled: Tensor, rows: TaskRows) -> Tensor:
        """[sequences, hidden] -> the same; rows: which sequences belong to which task."""
        return linear(pooled, self.weight, self.bias, rows).relu()


def linear_head(spec: HeadSpec) -> Head:
    """Dropout and one linear layer."""
    return _layered(spec, hidden_layers=0)


def hidden_head(spec: HeadSpec) -> Head:
    """Two layers of the encoder's width before the linear one."""
    return _layered(spec, hidden_layers=_HIDDEN_LAYERS)


def cosine_head(spec: HeadSpec) -> CosineHead:
    """The cosine of a pair's two pooled outputs."""
    return _cosine(spec, mapped=False)


def mapped_cosine_head(spec: HeadSpec) -> CosineHead:
    """The cosine of a linear map of both."""
    return _cosine(spec, mapped=True)


def build_heads(specs: Mapping[str, HeadSpec], *, seed: int) -> dict[str, TaskHead]:
    """New heads with random weights: task -> head, in the order of `specs`."""
    generator = torch.Generator().manual_seed(seed)
    heads = {}
    for name, spec in specs.items():
        heads[name] = spec.build(spec)
        heads[name].initialise(generator)
    return heads


def _layered(spec: HeadSpec, *, hidden_layers: int) -> Head:
    return Head(
        spec.hidden_size,
        spec.outputs,
        pair=spec.pair,
        dropout=spec.dropout,
        centre=spec.centre,
        pair_features=spec.pair_features,
        hidden_layers=hidden_layers,
        link=spec.link,
        learns_variance=spec.learns_variance,
        has_threshold=spec.has_threshold,
    )


def _cosine(spec: HeadSpec, *, mapped: bool) -> CosineHead:
    return CosineHead(
        spec.hidden_size,
        mapped=mapped,
        dropout=spec.dropout,
        learns_variance=spec.learns_variance,
        has_threshold=spec.has_threshold,
    )


def _drop(features: Tensor, rate: float, dropouts: DropoutStream | None) -> Tensor:
    return dropped(features, dropouts(rate) if dropouts else None)


def _initialise_before_relu(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    weight.copy_(torch.normal(0.0, math.sqrt(2 / weight.shape[1]), weight.shape, generator=generator))
    bias.zero_()
