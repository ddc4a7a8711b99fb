"""Raw text to train a language model on: the lines of a file, or the sentences of the tasks' training sets."""

from pathlib import Path

import numpy as np

from concord.bert.errors import InputError
from concord.bert.files import exists, is_file, is_folder, read_data
from concord.bert.tables import is_own
from concord.bert.tokenizer import Tokenizer
from concord.train.data.course import name_bad_rows
from concord.train.data.delimited import LONGEST_TEXT
from concord.train.data.sources import open_source
from concord.train.reporter import Reporter
from concord.train.settings.definitions import is_tasks_file
from concord.train.settings.parts import TextConfig
from concord.train.settings.tables import DEMO

_SHOWN = 20  # bad rows that the warning names one by one


def read_texts(config: TextConfig, reporter: Reporter) -> list[str]:
    """The different texts of `config.source`, in order: a UTF-8 file with one on each line, or the training sets of
    `config.tasks` in a folder in the course layout, in the tables that a tasks.toml names, or in the demo data.

    reporter: is warned of rows that are skipped. Raises InputError where there is nothing to read, or a row is bad and
    bad rows are not to be skipped.
    """
    path = Path(config.source)
    if is_file(path) and not is_tasks_file(path):
        texts = _lines(path)
    elif (
        is_tasks_file(path) or config.source == DEMO or is_folder(path) or (is_own(config.source) and not exists(path))
    ):
        texts = _sentences(config, reporter)
    else:
        raise InputError(f"--data {config.source}: expected a text file, a folder in the course layout, or {DEMO}")
    texts = list(dict.fromkeys(text for text in (text.strip() for text in texts) if text))
    if len(texts) < 2:
        raise InputError(f"{config.source}: {len(texts)} texts, expected two at least, one of them to be held out")
    return texts


def encode_texts(texts: list[str], tokenizer: Tokenizer, max_length: int) -> list[np.ndarray]:
    """Each text between the tokenizer's special tokens, int32, cut to `max_length`."""
    before, after = (np.array(group, np.int32) for group in tokenizer.single.ids)
    room = max_length - tokenizer.single.size
    return [np.concatenate([before, pieces[:room], after]) for pieces in tokenizer.encode(texts)]


def _lines(path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(read_data(path, "one text a line").split(b"\n"), 1):
        if len(line) > LONGEST_TEXT:
            raise InputError(f"{path}:{number}: {len(line)} bytes, expected a text of {LONGEST_TEXT} at most on a line")
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not UTF-8 ({error.reason}), expected one text a line") from None
    return texts


def _sentences(config: TextConfig, reporter: Reporter) -> list[str]:
    examples, bad_rows = [], []
    source = open_source(config.source, config.table)
    for task in source.tasks(config.tasks):
        split = source.read(task, "train", skip_bad_rows=config.skip_bad_rows)
        if split is not None:
            examples += split.examples
            bad_rows += split.bad_rows
    if bad_rows:
        reporter.warn(f"skipped {name_bad_rows(bad_rows, _SHOWN)}")
    return [text for example in examples for text in (example.first, example.second or "")]
