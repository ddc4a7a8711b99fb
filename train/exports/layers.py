"""A task's head as dense layers, which every library has: from what stands for a sequence to what the task answers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.heads import CosineHead, Head, Link, TaskHead
from concord.bert.multitask import MultitaskModel
from concord.train.data.tasks import Task
from concord.train.objectives.answers import LINKS


@dataclass(frozen=True)
class Dense:
    """A linear layer and what follows it.

    weight: fp32 [outputs, inputs]; bias: fp32 [outputs], on the CPU.
    activation: relu, sigmoid, tanh, gelu, or "" for none.
    """

    weight: Tensor
    bias: Tensor
    activation: str = ""


def known_head(model: MultitaskModel, task: Task) -> Head | CosineHead:
    """The task's head, of which it is known what it computes; InputError for one of the user's own."""
    head: TaskHead = model.heads[task.name]
    if type(head) not in (Head, CosineHead):
        raise InputError(
            f"task {task.name}: its head {type(head).__name__} is code of your own, which no other library has; "
            "expected a task with one of Concord's heads; concord.load runs yours"
        )
    return head


def is_separate(model: MultitaskModel, task: Task) -> bool:
    """Whether an example of the task is two sequences, which are encoded one by one; InputError as `known_head`."""
    head = known_head(model, task)
    return isinstance(head, CosineHead) or head.pair


def link_of_task(model: MultitaskModel, task: Task) -> Link:
    """What makes answers of the task's logits."""
    return model.heads[task.name].link or LINKS[task.kind][0]


def pooler_layer(model: MultitaskModel) -> Dense:
    """The pooler, which with the pooling cls makes of a first token's state what stands for its sequence."""
    values = model.encoder_values()
    kind = model.encoder.config.kind
    return Dense(_kept(values["pooler.weight"]), _kept(values["pooler.bias"]), kind.pooling)


def head_layers(model: MultitaskModel, task: Task) -> list[Dense]:
    """What a head computes of the pooled output, or of a pair's features; of a cosine, what it compares: the layer that
    tasks share, where this one reads through it, the head's hidden layers, and its last one.

    The shared layer reads each sequence, and so comes before a pair's features are made. InputError as `known_head`.
    """
    head, layers = known_head(model, task), shared_layers(model, task)
    if isinstance(head, CosineHead):
        return layers + ([Dense(_kept(head.map.weight), _kept(head.map.bias))] if head.map is not None else [])
    layers += [Dense(_kept(layer.weight), _kept(layer.bias), "relu") for layer in head.hidden]
    return [*layers, Dense(_kept(head.weight), _kept(head.bias))]


def shared_layers(model: MultitaskModel, task: Task) -> list[Dense]:
    """The layer that several tasks read the pooled output through, where this one is among them."""
    shared = model.shared_layer
    if shared is None or task.name not in shared.readers:
        return []
    return [Dense(_kept(shared.weight), _kept(shared.bias), "relu")]


def answering_layers(task: Task, link: Link, layers: list[Dense]) -> list[Dense]:
    """The layers with those that make answers of one logit: shares cut to their range, in the task's own numbers.

    A softmax, and a binary task's sigmoid, are left to whoever reads the last layer's output. min(max(z, 0), 1) is
    relu(z) - relu(z - 1).
    """
    if link == "softmax" or (link == "sigmoid" and task.kind == "binary"):
        return layers
    low, span = float(task.low), float(task.high) - float(task.low)
    if link == "sigmoid":
        return [*layers[:-1], replace(layers[-1], activation="sigmoid"), _dense([[span]], [low])]
    return [*layers, _dense([[1.0], [1.0]], [0.0, -1.0], "relu"), _dense([[span, -span]], [low])]


def _dense(weight: list[list[float]], bias: list[float], activation: str = "") -> Dense:
    return Dense(torch.tensor(weight), torch.tensor(bias), activation)


def _kept(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32).contiguous()
