"""Embeddings, and tasks of pairs, as sentence-transformers has them: a list of modules, most of them dense layers.

SentenceTransformer makes an embedding of one text; of a task that compares two embeddings by their cosine these are
what is compared. CrossEncoder reads both texts of a pair in one sequence, and answers with a score, or one a class.
"""

import json
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.heads import CosineHead
from concord.bert.multitask import MultitaskModel
from concord.bert.names import CONFIG_FILE, WEIGHTS_FILE
from concord.bert.sentence_files import SentenceSettings, write_dense, write_modules, write_pooling
from concord.bert.weights import POOLER, to_hugging_face, write_safetensors
from concord.train.data.tasks import Task
from concord.train.exports.layers import (
    Dense,
    answering_layers,
    head_layers,
    is_separate,
    known_head,
    link_of_task,
    pooler_layer,
)
from concord.train.exports.request import Request, Written

_LIBRARY = "sentence-transformers"
_SETTINGS_FILE = "config_sentence_transformers.json"
_SIGMOID, _IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def write_sentences(request: Request) -> Written:
    """Write the embeddings, or the one task that is asked for.

    InputError for a task of single texts, and for one of pairs in two sequences whose head is no cosine.
    """
    if not request.tasks:
        return _write_embeddings(request, [])
    (task,) = request.tasks
    if not task.pair:
        raise InputError(
            f"task {task.name}: it is one of single texts, whose answers have no place in sentence-transformers; "
            "expected --format transformers or onnx, or no --task, for the embeddings"
        )
    model = request.saved.model
    if not is_separate(model, task):
        return _write_cross_encoder(request, task)
    if not isinstance(known_head(model, task), CosineHead):
        raise InputError(
            f"task {task.name}: its head reads two embeddings side by side, which has no place in "
            "sentence-transformers; expected --format onnx, or no --task, for the embeddings"
        )
    return _write_embeddings(request, head_layers(model, task), task)


def _write_embeddings(request: Request, layers: list[Dense], task: Task | None = None) -> Written:
    """A SentenceTransformer whose embeddings have the length 1; task: that compares them by their cosine."""
    _write_modules(request, layers, normalised=True)
    _write_json(request.folder / _SETTINGS_FILE, {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"})
    lines = [
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("FOLDER")',
        'embeddings = model.encode(["A man sleeps.", "A man is awake."])',
    ]
    if task is not None:
        span = f"{task.low:g} + {task.high - task.low:g} * " if task.kind == "regression" else ""
        lines.append(f"answer = {span}min(max(float(model.similarity(embeddings[0], embeddings[1])), 0), 1)")
        if task.kind == "binary":
            lines.append(f"label = int(answer > {_threshold(request.saved.model, task)!r})")
    return Written(_LIBRARY, "sentence-similarity", "\n".join(lines))


def _write_cross_encoder(request: Request, task: Task) -> Written:
    """A CrossEncoder of a task whose pairs are one sequence."""
    model = request.saved.model
    link = link_of_task(model, task)
    layers = answering_layers(task, link, head_layers(model, task))
    _write_modules(request, layers, normalised=False)
    activation = _SIGMOID if link == "sigmoid" and task.kind == "binary" else _IDENTITY
    _write_json(request.folder / _SETTINGS_FILE, {"model_type": "CrossEncoder", "activation_fn": activation})
    softmax = ", apply_softmax=True" if link == "softmax" else ""
    lines = [
        "from sentence_transformers import CrossEncoder",
        "",
        'model = CrossEncoder("FOLDER")',
        f'scores = model.predict([("A man sleeps.", "A man is awake.")]{softmax})',
    ]
    if task.kind == "binary":
        ones = "scores[:, 1]" if softmax else "scores"
        lines.append(f"labels = {ones} > {_threshold(model, task)!r}")
    return Written(_LIBRARY, "text-ranking", "\n".join(lines))


def _threshold(model: MultitaskModel, task: Task) -> float:
    """The score above which a binary task's answer is 1."""
    return model.thresholds().get(task.name, 0.5)


def _write_modules(request: Request, layers: list[Dense], *, normalised: bool) -> None:
    """The encoder, its pooling, and the layers; normalised: whether embeddings of length 1 come out, or else scores."""
    model, folder = request.saved.model, request.folder
    config = model.encoder.config
    config.write(folder / CONFIG_FILE)
    # The pooler, where it is read, is one of the layers.
    values = {name: value for name, value in model.encoder_values().items() if not name.startswith(POOLER)}
    if config.kind.pooler_is_the_encoders:  # which else would be missed there
        values = model.encoder_values()
    write_safetensors(folder / WEIGHTS_FILE, to_hugging_face(values, config.kind))
    if not model.mean_pooling:
        layers = [pooler_layer(model), *layers]
    settings = SentenceSettings("mean" if model.mean_pooling else "cls", request.saved.config.data.max_length)
    write_pooling(folder, settings, config.hidden_size)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    for number, layer in enumerate(layers, len(kinds)):
        name = f"{number}_Dense"
        (folder / name).mkdir()
        output = "scores" if layer is layers[-1] and not normalised else ""
        write_dense(folder / name, layer.weight, layer.bias, layer.activation, output)
        kinds[name] = "Dense"
    if normalised:
        name = f"{len(kinds)}_Normalize"
        (folder / name).mkdir()
        kinds[name] = "Normalize"
    write_modules(folder, kinds)


def _write_json(path: Path, content: dict[str, str]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
