"""What lies beside the best model's weights, for the libraries that load them."""

from pathlib import Path

from concord.bert.files import make_folder, replacing
from concord.bert.multitask import MultitaskModel
from concord.bert.names import CONFIG_FILE
from concord.bert.sentence_files import SentenceSettings, write_pooler, write_sentence_settings
from concord.bert.tokenizer import Tokenizer


def write_companions(best: Path, model: MultitaskModel, tokenizer: Tokenizer, max_length: int) -> None:
    """Write what is the same whenever a run writes it: the weights may seal it.

    sentence-transformers has no projected attention, and is told of no pooling of a model that has. max_length: tokens
    of the longest sequence.
    """
    make_folder(best)
    with replacing(best / CONFIG_FILE) as beside:
        model.encoder.config.write(beside)
    tokenizer.save(best, max_length)
    if model.pals is None:
        settings = SentenceSettings("mean" if model.mean_pooling else "cls", max_length)
        config = model.encoder.config
        write_sentence_settings(best, settings, config.hidden_size, config.kind.pooling)


def write_own_pooler(best: Path, model: MultitaskModel) -> None:
    """Write the pooler once more, where sentence-transformers reads it, if the run pools by it."""
    if model.pals is None and not model.mean_pooling:
        write_pooler(best, model.encoder_values())
