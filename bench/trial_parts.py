"""What trials of concord/best try beside settings: losses, heads, and a batching that reads STS twice."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from concord.bert.heads import HeadSpec, TaskHead
from concord.kernels.dropout import DropoutStream, dropped
from concord.train.data.batching import proportional
from concord.train.data.sampler import Sampler
from concord.train.data.tasks import Task
from concord.train.objectives.pairs import Pairs
from concord.train.settings.parts import BatchConfig
from concord.train.settings.values import PerTask

_NEIGHBOUR = 0.1  # of a label's probability that each class beside it gets
_LEAST = 1e-6  # under a product of deviations, so that equal labels have no gradient instead of none that is finite


def neighbours(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy to a distribution in which each class beside the label has a tenth: ordered classes are told
    apart by people with such errors. logits: fp32 [n, classes]; labels: fp32 [n]; the mean, fp32 scalar."""
    places = torch.arange(task.classes, device=labels.device)
    beside = (places - labels[:, None]).abs() == 1
    wanted = _NEIGHBOUR * beside
    wanted = torch.where(places == labels[:, None], 1 - wanted.sum(1, keepdim=True), wanted)
    return functional.cross_entropy(logits, wanted)


def correlation(pairs: Pairs) -> Tensor:
    """1 - Pearson's correlation of the pairs' cosines and labels within a micro-batch, fp32 scalar: what STS is
    judged by, on what a step reads."""
    cosines = functional.cosine_similarity(pairs.first, pairs.second)
    cosines, shares = cosines - cosines.mean(), pairs.shares - pairs.shares.mean()
    lengths = (cosines.square().sum() * shares.square().sum() + _LEAST).sqrt()
    return 1 - (cosines * shares).sum() / lengths


correlation.of_pairs = True


class UnorderedHead(TaskHead):
    """Logits of a pair that are the same whichever of its two comes first, in fp32: two hidden layers with a ReLU read
    |u - v|, u * v and u + v of the outputs u and v, each scaled to elements of a size of 1.

    Args:
        spec: of the head; its dropout is on what the last layer reads.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec.link, spec.learns_variance, spec.has_threshold)
        size = spec.hidden_size
        self.hidden = nn.ModuleList(nn.Linear(width, size) for width in (3 * size, size))
        self.last = nn.Linear(size, spec.outputs)
        self._scale, self._dropout = size**0.5, spec.dropout

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights: before a ReLU as He et al. (2015), the last normal with deviation 0.02; biases 0."""
        for layer in self.hidden:
            deviation = (2 / layer.weight.shape[1]) ** 0.5
            layer.weight.copy_(torch.normal(0.0, deviation, layer.weight.shape, generator=generator))
            layer.bias.zero_()
        self.last.weight.copy_(torch.normal(0.0, 0.02, self.last.weight.shape, generator=generator))
        self.last.bias.zero_()

    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Logits fp32 [examples, outputs] of pooled outputs [2 * examples, hidden] in any dtype."""
        units = functional.normalize(pooled.to(self.last.weight.dtype), dim=1) * self._scale
        first, second = units[0::2], units[1::2]
        features = torch.cat([(first - second).abs(), first * second, (first + second) / 2], dim=1)
        for layer in self.hidden:
            features = layer(features).relu()
        return self.last(dropped(features, dropouts(self._dropout) if dropouts else None))


def unordered_head(spec: HeadSpec) -> UnorderedHead:
    """For `--heads paraphrase=bench.trial_parts:unordered_head`."""
    return UnorderedHead(spec)


class MetricHead(TaskHead):
    """The cosine of a linear map of a pair's two outputs, cut off at 0, as the share of the range, in fp32: the map
    begins as the identity, with which it is the cosine of the outputs themselves.

    Args:
        spec: of the head.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__("identity", spec.learns_variance, spec.has_threshold)
        self.map = nn.Linear(spec.hidden_size, spec.hidden_size, bias=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The identity; `generator` is not used."""
        nn.init.eye_(self.map.weight)

    def forward(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Cosines fp32 [examples, 1] of pooled outputs [2 * examples, hidden] in any dtype."""
        mapped = self.map(pooled.to(self.map.weight.dtype))
        return functional.cosine_similarity(mapped[0::2], mapped[1::2])[:, None].relu()


def metric_head(spec: HeadSpec) -> MetricHead:
    """For `--heads sts=bench.trial_parts:metric_head`."""
    return MetricHead(spec)


def sts_twice(sizes: Mapping[str, int], plan: BatchConfig) -> Sampler:
    """For `--batching bench.trial_parts:sts_twice`, as the trials name it: `--batching proportional --sampling-weights
    sts=2`, so that the set of STS is read twice while the largest is read once."""
    return proportional(sizes, replace(plan, sampling_weights=PerTask(1.0, {"sts": 2.0})))
