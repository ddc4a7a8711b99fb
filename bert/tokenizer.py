"""The tokenizer of a model, read from its directory: WordPiece, byte-level BPE or Unigram."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from concord.bert.errors import InputError, shown
from concord.bert.files import replacing
from concord.bert.frames import find_frames, set_template
from concord.bert.names import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from concord.bert.tokenizer_files import Found, find_tokenizer
from concord.bert.tokenizer_library import errors_unseen, refusing
from concord.bert.tokenizer_settings import BRACKETS

SPECIAL_TOKENS = BRACKETS  # of a vocabulary of our own
_UNKNOWN = "\U00012000"  # a cuneiform sign, which no vocabulary is likely to have


class Tokenizer:
    """Text to wordpiece ids, without special tokens, padding or truncation.

    Args:
        tokenizer: of the library, with the template that puts special tokens around texts.
        source: what messages call its origin.
        special: pad, unk, cls, sep and mask -> the token.
        segments: whether the second sentence of a pair has another segment, where the template says so.
        remark: what the user should know of it, or "".

    Attributes:
        vocab_size: one more than the largest id.
        pad_id, unk_id, cls_id, sep_id, mask_id: the special tokens.
        single, pair: what stands around one text, and two.
        digest: sha256 (hex) of everything that decides the ids of a text and the sequences that are made of it.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        source: str,
        special: Mapping[str, str] = BRACKETS,
        *,
        segments: bool = True,
        remark: str = "",
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._source, self.remark = tokenizer, source, remark
        self._special, self._segments = dict(special), segments
        missing = [token for token in special.values() if tokenizer.token_to_id(token) is None]
        if missing:
            raise InputError(f"{source}: the vocabulary lacks {', '.join(missing)}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            tokenizer.token_to_id(special[name]) for name in BRACKETS
        )
        self.single, self.pair = find_frames(tokenizer, source, segments=segments)
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        written = tokenizer.to_str()
        self.digest = hashlib.sha256((written + ("" if segments else "\nno segments")).encode()).hexdigest()
        self._reads_words = _reads_words(tokenizer)
        self._may_panic = '"Regex"' in written
        tokenizer.encode(_UNKNOWN)  # fails where what stands for the unknown is not in the vocabulary

    @classmethod
    def load(cls, directory: Path, *, segments: bool = True, lower_case: bool | None = None) -> "Tokenizer":
        """The tokenizer in a model directory, as Hugging Face's library reads it there: see `tokenizer_files`.

        segments: whether the model has segments; lower_case: in place of what the files say, None for that.
        Raises InputError where there is none, a file is damaged, its class is none that is known, or files disagree.
        """
        with refusing(f"{directory}: not a tokenizer"):
            found = find_tokenizer(directory, lower_case)
        with refusing(f"{found.source}: not a tokenizer"):
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(found.content))
            _add_tokens(tokenizer, found)
            if found.template:
                set_template(tokenizer, found.template, found.special)
            return cls(tokenizer, str(found.source), found.special, segments=segments, remark=found.remark)

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
        quiet = errors_unseen() if self._may_panic else nullcontext()
        with refusing(f"{self._source}: the tokenizer cannot take a text"), quiet:
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

    def save(self, directory: Path, max_length: int | None = None) -> None:
        """Write tokenizer.json into a directory, from which `load` reads it again, and a tokenizer_config.json with
        which Hugging Face's library takes it as it is, and not with the lower case of a class of its own.

        max_length: the most tokens that the model takes; None to leave it out.
        """
        with replacing(directory / TOKENIZER_FILE) as beside:
            beside.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        special = {f"{name}_token": token for name, token in self._special.items()}
        inputs = ["input_ids", *(["token_type_ids"] if self._segments else []), "attention_mask"]
        content = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs} | special
        if max_length is not None:
            content["model_max_length"] = max_length
        with replacing(directory / TOKENIZER_CONFIG_FILE) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _add_tokens(tokenizer: tokenizers.Tokenizer, found: Found) -> None:
    """Add the tokens that files beside the vocabulary name; InputError where one gets another number than they say."""
    for number, token in found.added:
        tokenizer.add_tokens([token])
        own = tokenizer.token_to_id(token.content)
        if number is not None and own != number:
            raise InputError(
                f"{found.source}: the added token {shown(token.content)} would get number {own}, but a file beside it "
                f"says {number}"
            )
    looked_for = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for text in found.special.values():
        if text not in looked_for and tokenizer.token_to_id(text) is not None:
            tokenizer.add_tokens([tokenizers.AddedToken(text, special=True)])


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
