"""The WordPiece tokenizer of a BERT model, read from its directory."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from bert.errors import InputError
from bert.files import replacing

TOKENIZER_FILE, VOCABULARY_FILE = "tokenizer.json", "vocab.txt"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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
        self._tokenizer = tokenizer
        missing = [token for token in _SPECIAL if tokenizer.token_to_id(token) is None]
        if missing:
            raise InputError(f"{source}: the vocabulary lacks {', '.join(missing)}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(tokenizer.token_to_id, _SPECIAL)
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        self.digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer in a model directory: its tokenizer.json, or else its vocab.txt, lower-cased.

        Raises InputError where neither is there, or the file is damaged.
        """
        for name in (TOKENIZER_FILE, VOCABULARY_FILE):
            path = directory / name
            if not path.exists():
                continue
            try:
                if name == TOKENIZER_FILE:
                    return cls(tokenizers.Tokenizer.from_file(str(path)), str(path))
                wordpiece = tokenizers.BertWordPieceTokenizer(str(path), lowercase=True)
                return cls(tokenizers.Tokenizer.from_str(wordpiece.to_str()), str(path))
            except InputError:
                raise
            except Exception as error:  # the library raises plain Exception for whatever is wrong with a file
                raise InputError(f"{path}: not a tokenizer ({error})") from None
        raise InputError(f"{directory}: no tokenizer, expected {TOKENIZER_FILE} or {VOCABULARY_FILE}")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The wordpiece ids of each text, int32 [wordpieces] each, without special tokens."""
        # A lone surrogate, which JSON can hold, is no UTF-8 and the library refuses it.
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def save(self, directory: Path) -> None:
        """Write tokenizer.json into a directory, from which `load` reads it again."""
        with replacing(directory / TOKENIZER_FILE) as beside:
            beside.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
