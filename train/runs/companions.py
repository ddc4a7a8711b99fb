"""What lies beside the best model's weights, for the libraries that load them."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.files import make_folder, replacing
from concord.bert.multitask import MultitaskModel
from concord.bert.names import CONFIG_FILE
from concord.bert.sentence_files import SentenceSettings, write_pooler, write_sentence_settings
from concord.bert.tokenizer import Tokenizer
from concord.train.data.tasks import Task
from concord.train.exports.classifier import Classifier, classifier_of, classifier_tensors


def write_companions(
    best: Path, model: MultitaskModel, tasks: Sequence[Task], tokenizer: Tokenizer, max_length: int
) -> None:
    """Write what is the same whenever a run writes it: the weights may seal it.

    sentence-transformers has no projected attention, and is told of no pooling of a model that has. max_length: tokens
    of the longest sequence.
    """
    make_folder(best)
    config, classifier = model.encoder.config, _classifier(model, tasks)
    with replacing(best / CONFIG_FILE) as beside:
        content = config.as_json() | (classifier.settings if classifier else {})
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(best, max_length)
    if model.pals is None:
        settings = SentenceSettings("mean" if model.mean_pooling else "cls", max_length)
        write_sentence_settings(best, settings, config.hidden_size, config.kind.pooling)


def write_own_pooler(best: Path, model: MultitaskModel) -> None:
    """Write the pooler once more, where sentence-transformers reads it, if the run pools by it."""
    if model.pals is None and not model.mean_pooling:
        write_pooler(best, model.encoder_values())


def classifier_weights(model: MultitaskModel, tasks: Sequence[Task]) -> dict[str, Tensor] | None:
    """The weights under the names of transformers' classifier, where the run has one task that this can be: its
    encoder alone is loaded from them, too. None where the encoder's own names are to be taken."""
    classifier = _classifier(model, tasks)
    return classifier_tensors(model, classifier, keep_pooler=True) if classifier else None


def _classifier(model: MultitaskModel, tasks: Sequence[Task]) -> Classifier | None:
    """The head of a run's one task, a classification that transformers has a place for. Nothing that training changes
    decides of it."""
    if len(tasks) != 1 or tasks[0].kind != "classification" or model.pals is not None:
        return None
    try:
        return classifier_of(model, tasks[0])
    except InputError:
        return None
