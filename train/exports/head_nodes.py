"""Tasks' heads as ONNX operators: from what stands for the sequences to each task's scores and label."""

from collections.abc import Sequence

from onnx import TensorProto

from concord.bert.heads import CosineHead, Link
from concord.bert.multitask import MultitaskModel
from concord.train.data.tasks import Task
from concord.train.exports.layers import head_layers, is_separate, known_head, link_of_task, shared_layers
from concord.train.exports.nodes import Nodes
from concord.train.objectives.answers import label_names

SCOPE = "heads/"
_EPSILON = 1e-8  # the least length that a vector is divided by, as torch's cosine_similarity has it
Outputs = dict[str, tuple[int, list[str | int]]]


def add_heads(nodes: Nodes, model: MultitaskModel, tasks: Sequence[Task], pooled: str) -> Outputs:
    """Write the heads of tasks into a graph; what comes out: a name -> its type and axes.

    TASK.scores is fp32 [batch, labels] as `LoadedRun.predict` returns them, or of a regression [batch, 1]; TASK.label
    int64 [batch], the number of the label, is of no regression. Of a task whose pairs are two sequences, rows 0 and 1,
    2 and 3 and so on of the batch are the pairs, and `batch` is half of them. InputError as `known_head`.
    """
    outputs: Outputs = {}
    for task in tasks:
        nodes.scope = f"{SCOPE}{task.name}/"
        link, batch = link_of_task(model, task), "pairs" if is_separate(model, task) else "batch"
        logits = _logits(nodes, model, task, pooled)
        scores, share = _scores(nodes, task, link, logits)
        nodes.add("Identity", scores, outputs=[f"{task.name}.scores"])
        outputs[f"{task.name}.scores"] = (TensorProto.FLOAT, [batch, max(1, len(label_names(task)))])
        if task.kind != "regression":
            label = _label(nodes, link, logits, share, model.thresholds().get(task.name))
            nodes.add("Identity", label, outputs=[f"{task.name}.label"])
            outputs[f"{task.name}.label"] = (TensorProto.INT64, [batch])
    return outputs


def _logits(nodes: Nodes, model: MultitaskModel, task: Task, pooled: str) -> str:
    head, layers = known_head(model, task), head_layers(model, task)
    shared = len(shared_layers(model, task))
    x = pooled
    for number, layer in enumerate(layers):
        if number == shared and is_separate(model, task) and not isinstance(head, CosineHead):
            x = _features(nodes, head.pair_features, x)
        x = nodes.dense(x, f"dense.{number}", layer)
    return _cosine(nodes, x, positive=head.map is None) if isinstance(head, CosineHead) else x


def _pair(nodes: Nodes, x: str) -> tuple[str, str]:
    """The first and the second sequence of each pair; a last row that has no second is left out."""
    return nodes.slice(x, 0, -1, 0, 2), nodes.slice(x, 1, 1 << 62, 0, 2)


def _features(nodes: Nodes, kind: str, x: str) -> str:
    """What a head reads of a pair, see `concord.bert.heads.Head`."""
    first, second = _pair(nodes, x)
    read = [first, second]
    if kind in ("difference", "product"):
        read.append(nodes.add("Abs", nodes.add("Sub", first, second)))
    if kind == "product":
        read.append(nodes.add("Mul", first, second))
    return nodes.add("Concat", *read, axis=1)


def _cosine(nodes: Nodes, x: str, *, positive: bool) -> str:
    """The cosine of each pair, [pairs, 1]; positive: whether one below 0 is 0."""
    axis, least = nodes.constant("axis", [1]), nodes.constant("least", _EPSILON)
    units = [
        nodes.add("Div", part, nodes.add("Max", nodes.add("ReduceL2", part, axis, keepdims=1), least))
        for part in _pair(nodes, x)
    ]
    cosine = nodes.add("ReduceSum", nodes.add("Mul", *units), axis, keepdims=1)
    return nodes.add("Relu", cosine) if positive else cosine


def _scores(nodes: Nodes, task: Task, link: Link, logits: str) -> tuple[str, str]:
    """The scores, and of a binary task how much speaks for the answer 1, [batch, 1]; "" of others."""
    if link == "softmax":
        scores = nodes.add("Softmax", logits, axis=-1)
        return scores, nodes.slice(scores, 1, 2, 1) if task.kind == "binary" else ""
    if link == "sigmoid":
        share = nodes.add("Sigmoid", logits)
    else:
        share = nodes.add("Clip", logits, nodes.constant("none", 0.0), nodes.constant("all", 1.0))
    if task.kind == "regression":
        spanned = nodes.add("Mul", share, nodes.constant("span", float(task.high) - float(task.low)))
        return nodes.add("Add", spanned, nodes.constant("low", float(task.low))), ""
    other = nodes.add("Sub", nodes.constant("whole", 1.0), share)
    return nodes.add("Concat", other, share, axis=1), share


def _label(nodes: Nodes, link: Link, logits: str, share: str, threshold: float | None) -> str:
    """The number of the label that is answered, int64 [batch]."""
    if threshold is None and link == "softmax":
        return nodes.add("ArgMax", logits, axis=-1, keepdims=0)
    if threshold is None:  # the logit at which the share is a half
        above = nodes.add("Greater", logits, nodes.constant("half", {"sigmoid": 0.0, "identity": 0.5}[link]))
    else:
        score = logits if link == "identity" else share
        above = nodes.add("Greater", score, nodes.constant("threshold", threshold))
    return nodes.add("Squeeze", nodes.add("Cast", above, to=TensorProto.INT64), nodes.constant("axes", [1]))
