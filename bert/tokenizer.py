"""The WordPiece tokenizer of a BERT model, read from its directory."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from concord.bert import tokenizer_child
from concord.bert.errors import InputError, shown
from concord.bert.files import MOST_JSON, read_data, read_json_object, replacing
from concord.bert.names import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, VOCABULARY_FILE

SPECIAL_TOKENS = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
_UNKNOWN = "\U00012000"  # a cuneiform sign, which no vocabulary is likely to have
# sha256 of a tokenizer.json that needs no trial: MiniLM's.
_KNOWN = frozenset({"be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"})
_MOST_IDS = 1 << 24  # of a vocabulary; the library makes tables as long as the largest id
_LONGEST_WORD = 1000  # characters of a word that has wordpieces: the time grows with their square; BERT's own is 100
_SECONDS = 60.0  # for the child, on a machine that is busy


class Tokenizer:
    """Text to wordpiece ids, without special tokens, padding or truncation.

    Attributes:
        vocab_size: one more than the largest id.
        pad_id, unk_id, cls_id, sep_id, mask_id: the special tokens.
        digest: sha256 (hex) of everything that decides the ids of a text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, source: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._source = tokenizer, source
        missing = [token for token in SPECIAL_TOKENS.values() if tokenizer.token_to_id(token) is None]
        if missing:
            raise InputError(f"{source}: the vocabulary lacks {', '.join(missing)}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(
            tokenizer.token_to_id, SPECIAL_TOKENS.values()
        )
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        written = tokenizer.to_str()
        self.digest = hashlib.sha256(written.encode()).hexdigest()
        self._reads_words = _reads_words(tokenizer)
        self._may_panic = '"Regex"' in written
        tokenizer.encode(_UNKNOWN)  # fails where what stands for the unknown is not in the vocabulary

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer in a model directory: its tokenizer.json, or else its vocab.txt.

        With vocab.txt, texts are lower-cased and lose their accents, unless a tokenizer_config.json says otherwise, as
        Hugging Face's BertTokenizer reads it (`do_lower_case`, `strip_accents`, `tokenize_chinese_chars`).
        Raises InputError where neither is there, or a file is damaged.
        """
        for name in (TOKENIZER_FILE, VOCABULARY_FILE):
            path = directory / name
            if not path.exists():
                continue
            content = read_data(path, "a tokenizer", MOST_JSON)
            if name == TOKENIZER_FILE and hashlib.sha256(content).hexdigest() not in _KNOWN:
                _try(path, read_json_object(path, "a tokenizer"))
            with _refusing(f"{path}: not a tokenizer"):
                if name == TOKENIZER_FILE:
                    return cls(tokenizers.Tokenizer.from_str(content.decode("utf-8")), str(path))
                wordpiece = tokenizers.BertWordPieceTokenizer(str(path), **_normalisation(directory))
                return cls(tokenizers.Tokenizer.from_str(wordpiece.to_str()), str(path))
        raise InputError(f"{directory}: no tokenizer, expected {TOKENIZER_FILE} or {VOCABULARY_FILE}")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The wordpiece ids of each text, int32 [wordpieces] each, without special tokens. InputError where the
        tokenizer cannot take a text, as where a pattern of its own takes too long for it."""
        if self._reads_words:
            return self._encode_by_words(texts)
        return self._encode_whole(texts)

    def _encode_whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text by the library, which shares a list among threads."""
        # A lone surrogate, which JSON can hold, is no UTF-8 and the library refuses it.
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        quiet = _errors_unseen() if self._may_panic else nullcontext()
        with _refusing(f"{self._source}: the tokenizer cannot take a text"), quiet:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _encode_by_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text from its words, which the library reads once each: most of a data set's words repeat."""
        if not texts:
            return []
        numbers: dict[str, int] = {}  # word -> its number, in the order in which they first occur
        spelled = (numbers.setdefault(word, len(numbers)) for text in texts for word in text.split(" "))
        words = np.fromiter(spelled, dtype=np.int64)
        pieces = self._encode_whole(list(numbers))
        counts = np.array([len(piece) for piece in pieces])
        begins = np.cumsum(counts) - counts
        of_words = counts[words]
        ends = np.cumsum(of_words)
        # The place of each wordpiece of the texts among those of the different words.
        places = np.repeat(begins[words] - (ends - of_words), of_words) + np.arange(ends[-1])
        last_words = np.cumsum([text.count(" ") + 1 for text in texts]) - 1
        return np.split(np.concatenate(pieces)[places], ends[last_words[:-1]])

    def save(self, directory: Path, max_length: int) -> None:
        """Write tokenizer.json into a directory, from which `load` reads it again, and a tokenizer_config.json with
        which Hugging Face's library takes it as it is, and not with BERT's lower case. max_length: wordpieces at which
        that library is to cut sequences where it is asked to, special tokens included."""
        with replacing(directory / TOKENIZER_FILE) as beside:
            beside.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        special = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        content = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
        content |= {"model_max_length": max_length} | special
        with replacing(directory / TOKENIZER_CONFIG_FILE) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _reads_words(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the wordpieces of a text are those of what its spaces part, one after the other.

    BERT's normaliser looks at one character and the marks on it, and its words end at a space. The tokens that are
    looked for before that must not reach over one.
    """
    return (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.model, models.WordPiece)
        and all(token.content.split() == [token.content] for token in tokenizer.get_added_tokens_decoder().values())
    )


def _normalisation(directory: Path) -> dict[str, bool | None]:
    """How a vocab.txt is to be read, as the arguments of a BertWordPieceTokenizer."""
    path = directory / TOKENIZER_CONFIG_FILE
    content = read_json_object(path, "an object") if path.exists() else {}
    found = {}
    for argument, name, default in (
        ("lowercase", "do_lower_case", True),
        ("strip_accents", "strip_accents", None),
        ("handle_chinese_chars", "tokenize_chinese_chars", True),
    ):
        found[argument] = content.get(name, default)
        if type(found[argument]) is not bool and found[argument] is not default:
            raise InputError(f"{path}: {name} is {found[argument]!r}, expected true or false")
    return found


@contextmanager
def _errors_unseen() -> Iterator[None]:
    """Within this context nothing reaches the error output, to which the library writes pages where it panics."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _refusing(message: str) -> Iterator[None]:
    """Within this context whatever the library raises is an InputError that begins with `message`.

    It raises plain Exception for whatever is wrong with a file, and panics with an error that is none.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{message} ({error})") from None


def _try(path: Path, content: dict[str, Any]) -> None:
    """InputError where a tokenizer.json from outside, which holds `content`, has ids or words beyond all measure, or
    does not stand its trial in a child process."""
    model, added = content.get("model"), content.get("added_tokens")
    model = model if isinstance(model, dict) else {}
    vocabulary = model.get("vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    for number in ids:
        if type(number) is not int or not 0 <= number < _MOST_IDS:
            raise InputError(f"{path}: not a tokenizer: an id is {shown(number)}, expected 0 to {_MOST_IDS - 1}")
    longest = model.get("max_input_chars_per_word", 0)
    if type(longest) is not int or not 0 <= longest <= _LONGEST_WORD:
        found = shown(longest)
        raise InputError(f"{path}: max_input_chars_per_word is {found}, expected {_LONGEST_WORD} at most")
    # Without -P its own folder would come first where the child looks for modules.
    command = [sys.executable, "-P", tokenizer_child.__file__, str(path)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        child = subprocess.run(command, capture_output=True, env=environment, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: not a tokenizer (its trial did not end within {_SECONDS:g} s)") from None
    if child.returncode < 0:
        ending = signal.Signals(-child.returncode).name
        raise InputError(
            f"{path}: not a tokenizer (its trial ended with {ending}: {tokenizer_child.SECONDS} s and "
            f"{tokenizer_child.MEMORY >> 30} GiB are what it may take)"
        )
    if child.returncode:
        reason = child.stdout.decode("utf-8", "replace") or f"exit code {child.returncode}"
        raise InputError(f"{path}: not a tokenizer ({reason})")
