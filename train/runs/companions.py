"""What lies beside the best model's weights, for the libraries that load them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.files import make_folder, replacing
from concord.bert.multitask import MultitaskModel
from concord.bert.names import BEST, CONFIG_FILE, HEADS_FILE
from concord.bert.sentence_files import SentenceSettings, write_pooler, write_sentence_settings
from concord.bert.tokenizer import Tokenizer
from concord.train.data.tasks import Task
from concord.train.exports.card import write_card
from concord.train.exports.classifier import Classifier, classifier_of, classifier_tensors
from concord.train.exports.request import Written
from concord.train.reports.stored_run import StoredRun


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


def best_card(model: MultitaskModel, tasks: Sequence[Task]) -> Callable[[StoredRun], None]:
    """What writes the card of a run's best model."""
    classifier, pooled = _classifier(model, tasks), model.pals is None
    return lambda run: _write_best_card(run, classifier is not None, pooled)


def _write_best_card(run: StoredRun, classifies: bool, pooled: bool) -> None:
    """classifies: whether transformers' classifier answers as the run does; pooled: whether sentence-transformers pools
    as it does."""
    folder, task = run.directory.name, run.tasks[0].name
    about = ["A model that Concord has trained" + (" on several tasks at once." if len(run.tasks) > 1 else ".")]
    if not classifies:
        about = [
            f"For the answers of a task in another library: `concord export {folder} --format transformers --task "
            f"{task} --output FOLDER`, or `--format sentence-transformers` or `onnx`. This folder itself has the "
            f"encoder, and in `{HEADS_FILE}` the heads, which Concord reads.",
            *about,
        ]
    lines = ["from concord import load", "", f'run = load("{folder}")', f'run.predict("{task}", texts)']
    if classifies:
        lines += ["", "from transformers import pipeline", ""]
        lines += ['pipeline("text-classification", model="FOLDER", truncation=True)(texts)']
    if pooled:
        lines += ["", "from sentence_transformers import SentenceTransformer", ""]
        lines += ['SentenceTransformer("FOLDER").encode(texts, normalize_embeddings=True)']
    written = Written("transformers", "text-classification" if classifies else "feature-extraction", "\n".join(lines))
    write_card(run.directory / BEST, run, written, name=f"{folder}/{BEST}", about=about)


def _classifier(model: MultitaskModel, tasks: Sequence[Task]) -> Classifier | None:
    """The head of a run's one task, a classification that transformers has a place for. Nothing that training changes
    decides of it."""
    if len(tasks) != 1 or tasks[0].kind != "classification" or model.pals is not None:
        return None
    try:
        return classifier_of(model, tasks[0])
    except InputError:
        return None
