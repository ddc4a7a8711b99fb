"""The tokenizer of a model directory, of which up to five files speak, as Hugging Face's library (5.x) resolves it.

The class that tokenizer_config.json or config.json names decides how texts are read, with tokenizer_config.json's
settings; tokenizer.json or vocab.txt has the vocabulary. Where two files disagree and neither is plainly meant, an
error names both. What cannot be read as the class reads it is refused by name.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from concord.bert.errors import InputError
from concord.bert.files import MOST_JSON, exists, read_data, read_json_object
from concord.bert.names import TOKENIZER_FILE, VOCABULARY_FILE
from concord.bert.tokenizer_contents import as_bytes, as_unigram, as_wordpiece, in_case
from concord.bert.tokenizer_library import refusing
from concord.bert.tokenizer_settings import BYTES, CLASSES, UNIGRAM, WORDPIECE, TokenizerSettings
from concord.bert.tokenizer_trial import try_tokenizer

# sha256 of a tokenizer.json that needs no trial: MiniLM's.
_KNOWN = frozenset({"be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"})
_CONVERT = "from transformers import AutoTokenizer as A; A.from_pretrained('{0}').save_pretrained('{0}')"


@dataclass(frozen=True)
class Found:
    """What a directory's files hold together.

    content: of a tokenizer.json that reads texts as the directory's class does.
    added: tokens that are looked for before anything else, with the number that files give them, None for any.
    special: pad, unk, cls, sep and mask -> the token.
    source: the file of the vocabulary.
    template: what the class puts around texts: BERT, RoBERTa, or "" for what the content says.
    remark: what the user should know, or "".
    """

    content: dict[str, Any]
    added: list[tuple[int | None, tokenizers.AddedToken]]
    special: dict[str, str]
    source: Path
    template: str
    remark: str = ""


def find_tokenizer(directory: Path, lower_case: bool | None = None) -> Found:
    """The tokenizer of a model directory.

    lower_case: whether texts are lower-cased, in place of what the files say; None for what they say.
    Raises InputError where there is none, a file is damaged, its class is none that is known, or files disagree.
    """
    settings = TokenizerSettings(directory)
    path = _vocabulary_file(directory)
    kind = CLASSES[settings.tokenizer_class] if settings.tokenizer_class else None
    if path.name == VOCABULARY_FILE:
        if kind not in (None, WORDPIECE):
            raise InputError(
                f"{path}: WordPiece's vocabulary, but the tokenizer is a {settings.tokenizer_class}, by "
                f"{settings.class_file}"
            )
        content, kind = _from_vocabulary(path), WORDPIECE
    else:
        data = read_data(path, "a tokenizer", MOST_JSON)
        content = read_json_object(path, "a tokenizer")
        if hashlib.sha256(data).hexdigest() not in _KNOWN:
            try_tokenizer(path, content)
    special = settings.special_tokens(content, kind)
    remark = ""
    if kind == WORDPIECE:
        content, remark = as_wordpiece(content, path, settings, lower_case)
    elif lower_case is not None:
        content = in_case(content, path, kind, lower_case)
    elif kind == BYTES:
        content = as_bytes(content, path, settings)
    elif kind == UNIGRAM:
        content = as_unigram(content, path, settings)
    template = {WORDPIECE: "BERT", BYTES: "RoBERTa", UNIGRAM: "RoBERTa"}[kind] if kind else ""
    return Found(content, list(settings.added_tokens(content, kind, special)), special, path, template, remark)


def _vocabulary_file(directory: Path) -> Path:
    for name in (TOKENIZER_FILE, VOCABULARY_FILE):
        if exists(directory / name):
            return directory / name
    others = [path.name for path in (directory / "vocab.json", *sorted(directory.glob("*.model"))) if exists(path)]
    if not others:
        raise InputError(f"{directory}: no tokenizer, expected {TOKENIZER_FILE} or {VOCABULARY_FILE}")
    raise InputError(
        f"{directory}: no {TOKENIZER_FILE}, only {others[0]}, which is not read; convert it, outside of this project's "
        f'folder: python -c "{_CONVERT.format(directory)}"'
    )


def _from_vocabulary(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json from a vocab.txt; whatever the library raises is an InputError."""
    read_data(path, "a tokenizer", MOST_JSON)
    with refusing(f"{path}: not a tokenizer"):
        return json.loads(tokenizers.BertWordPieceTokenizer(str(path)).to_str())
