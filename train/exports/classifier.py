"""A task as transformers' AutoModelForSequenceClassification has it: each kind of encoder's own class for that.

These classes pool the first token as the encoder's kind does, and one linear layer follows. Of one label they answer
with its logit, of several with a softmax.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.heads import CosineHead
from concord.bert.multitask import MultitaskModel
from concord.bert.names import CONFIG_FILE, WEIGHTS_FILE
from concord.bert.weights import to_classifier, write_safetensors
from concord.train.data.tasks import Task
from concord.train.exports.layers import Dense, head_layers, known_head, link_of_task, shared_layers
from concord.train.exports.request import Request, Written
from concord.train.objectives.answers import label_names


@dataclass(frozen=True)
class Classifier:
    """One task's head as the last layer of a classifier.

    layer: the last layer; settings: what config.json says of it; remarks: what users have to know, a phrase each.
    """

    layer: Dense
    settings: dict[str, Any]
    remarks: tuple[str, ...]


def classifier_of(model: MultitaskModel, task: Task) -> Classifier:
    """The task's head as a classifier that gives the same answers; InputError that names what there is no place for in
    transformers' classes, and what has one."""
    if problem := _problem(model, task):
        raise InputError(f"task {task.name}: {problem}")
    (layer,) = head_layers(model, task)
    link, remarks = link_of_task(model, task), ()
    labels, kind = [str(name) for name in label_names(task)], "single_label_classification"
    if task.kind == "regression":
        labels, kind = [task.name], "regression"
        span = float(task.high) - float(task.low)
        layer = _exactly(layer.weight.double() * span, layer.bias.double() * span + float(task.low))
        remarks = (f"answers are not cut to the range from {task.low:g} to {task.high:g}, as Concord's are",)
    elif link == "sigmoid":  # which is the softmax of 0 and the logit
        layer = _exactly(*(torch.cat([torch.zeros_like(own), own]) for own in (layer.weight, layer.bias)))
    config, head = model.encoder.config, known_head(model, task)
    settings = {
        "architectures": [config.kind.classifier.architecture],
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "problem_type": kind,
        config.kind.classifier.dropout: head.dropout,
    }
    return Classifier(layer, settings, remarks)


def classifier_tensors(model: MultitaskModel, classifier: Classifier, *, keep_pooler: bool) -> dict[str, Tensor]:
    """The model's weights by transformers' names; keep_pooler: see `to_classifier`."""
    layer = {"weight": classifier.layer.weight, "bias": classifier.layer.bias}
    return to_classifier(model.encoder_values(), layer, model.encoder.config.kind, keep_pooler=keep_pooler)


def write_classifier(request: Request) -> Written:
    """Write the one task that is asked for; InputError as `classifier_of`."""
    model, (task,) = request.saved.model, request.tasks
    classifier = classifier_of(model, task)
    content = model.encoder.config.as_json() | classifier.settings
    (request.folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_safetensors(request.folder / WEIGHTS_FILE, classifier_tensors(model, classifier, keep_pooler=False))
    return Written("transformers", "text-classification", _loading(task), classifier.remarks)


def _loading(task: Task) -> str:
    """Python that asks the model as transformers' pipeline does."""
    asked = '{"text": "A man sleeps.", "text_pair": "A man is awake."}' if task.pair else '"A text."'
    return f"""from transformers import pipeline

answer = pipeline("text-classification", model="FOLDER", truncation=True)
answer({asked})"""


def _exactly(weight: Tensor, bias: Tensor) -> Dense:
    return Dense(weight.float().contiguous(), bias.float().contiguous())


def _problem(model: MultitaskModel, task: Task) -> str:
    """Why transformers' classes cannot give a task's answers, and what can; "" where they can."""
    head, link = known_head(model, task), link_of_task(model, task)
    instead = "expected --format onnx" + (" or sentence-transformers" if task.pair else "")
    if isinstance(head, CosineHead):
        return (
            "its cosine of two embeddings has no place in transformers, expected --format onnx or sentence-transformers"
        )
    if head.pair:
        return "its pairs are two sequences, of which transformers reads one at a time, expected --format onnx"
    if model.mean_pooling:
        return f"its mean pooling has no place in transformers' classifiers, {instead}"
    if shared_layers(model, task):
        return f"the layer that it shares with other tasks has no place in transformers, {instead}"
    if head.hidden:
        return f"the hidden layers of its head have no place in transformers, {instead}"
    if head.threshold is not None and head.threshold.item() != 0.5:
        return f"its threshold of {head.threshold.item():.4g} has no place in transformers, {instead}"
    if (task.kind, link) == ("binary", "identity"):
        return f"its loss makes of one logit a share, and no softmax, which has no place in transformers, {instead}"
    if (task.kind, link) == ("regression", "sigmoid"):
        return f"the sigmoid that its loss makes answers by has no place in transformers, {instead}"
    return ""
