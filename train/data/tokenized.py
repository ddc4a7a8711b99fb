"""Tokenised data sets: composed into sequences once, and cached by the hash of what decides them."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from concord.bert.errors import InputError, did_you_mean
from concord.bert.files import make_folder, sweep
from concord.bert.tensor_files import read_tensors, write_tensors
from concord.bert.tokenizer import Tokenizer
from concord.train.data.tasks import Example, Task
from concord.train.reporter import Reporter

_FORMAT = "3"  # of cached files; with a new number every old file is ignored
_DTYPES = {"ids": np.int32, "segments": np.uint8, "cu_seqlens": np.int64, "truncated": np.int64}  # of its arrays
_PAIR_ENCODINGS = ("joint", "separate")


@dataclass(frozen=True)
class TokenizedSplit:
    """One split of one task as the encoder reads it.

    Attributes:
        task: whose examples they are.
        example_ids: the examples' ids, in their order.
        ids: int32 [tokens], wordpieces, special tokens included.
        segments: uint8 [tokens], 1 for the second sentence of a pair in one sequence, else 0.
        cu_seqlens: int64 [sequences + 1], where each sequence begins.
        sequences_per_example: 1, or 2 for pairs encoded one by one, whose sequences follow each other.
        labels: fp32 [examples], NaN where there is none.
        truncated: how many examples were cut to the maximum length.
        digest: sha256 (hex) of the arrays above: equal digests train alike.
    """

    task: Task
    example_ids: list[str]
    ids: np.ndarray
    segments: np.ndarray
    cu_seqlens: np.ndarray
    sequences_per_example: int
    labels: np.ndarray
    truncated: int
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def sequences_of(self, examples: np.ndarray) -> np.ndarray:
        """The numbers of the sequences of `examples`, int64 [n]: int64 [n * sequences_per_example], in their order."""
        count = self.sequences_per_example
        return (examples[:, None] * count + np.arange(count)).reshape(-1)

    def tokens_of(self, examples: np.ndarray) -> int:
        """How many tokens `examples`, int64 [n], have together."""
        first = examples * self.sequences_per_example
        return int((self.cu_seqlens[first + self.sequences_per_example] - self.cu_seqlens[first]).sum())


def tokenize_split(
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    pair_encoding: str,
    max_length: int,
    cache: "TokenCache | None",
) -> TokenizedSplit:
    """Tokenise examples and add the special tokens that the tokenizer's template has.

    With BERT's a single sentence becomes [CLS] a [SEP]. A pair becomes [CLS] a [SEP] b [SEP] with segments 0 and 1
    (pair_encoding "joint"), or two sequences ("separate"). Sequences longer than max_length wordpieces are cut at the
    longer sentence first. cache: where the result is kept under the hash of the texts and all settings, and looked for.
    InputError for another pair_encoding, or a max_length that the special tokens fill.
    """
    if pair_encoding not in _PAIR_ENCODINGS:
        raise InputError(f"--pair-encoding {pair_encoding}: {did_you_mean(pair_encoding, _PAIR_ENCODINGS)}")
    joint = task.pair and pair_encoding == "joint"
    per_example = 2 if task.pair and not joint else 1
    content = _content_hash(task, examples, tokenizer, joint, max_length)
    bounds = _Bounds(len(examples), per_example, max_length, tokenizer.vocab_size)
    arrays = cache.read(content, bounds) if cache else None
    if arrays is None:
        arrays = _compose(task, examples, tokenizer, joint, max_length)
        if cache:
            cache.write(content, arrays)
    labels = np.array([np.nan if example.label is None else example.label for example in examples], dtype=np.float32)
    return TokenizedSplit(
        task=task,
        example_ids=[example.id for example in examples],
        ids=arrays["ids"],
        segments=arrays["segments"],
        cu_seqlens=arrays["cu_seqlens"],
        sequences_per_example=per_example,
        labels=labels,
        truncated=int(arrays["truncated"][0]),
        digest=_digest([arrays["ids"], arrays["segments"], arrays["cu_seqlens"], np.array([per_example]), labels]),
    )


@dataclass(frozen=True)
class _Bounds:
    """What the arrays of a split are bound to be.

    examples: how many; per_example: sequences of each; max_length, vocab_size: that no sequence and no id reaches past.
    """

    examples: int
    per_example: int
    max_length: int
    vocab_size: int

    def hold(self, arrays: dict[str, np.ndarray]) -> bool:
        """Whether the arrays of a file can be a split's: their names, dtypes, shapes, and all values within bounds."""
        if {name: array.dtype for name, array in arrays.items()} != _DTYPES:
            return False
        ids, segments, offsets, truncated = (arrays[name] for name in _DTYPES)
        if offsets.shape != (self.examples * self.per_example + 1,) or truncated.shape != (1,):
            return False
        lengths = np.diff(offsets)
        return bool(
            ids.shape == segments.shape == (offsets[-1],)
            and offsets[0] == 0
            and np.all((lengths >= 1) & (lengths <= self.max_length))
            and np.all((ids >= 0) & (ids < self.vocab_size))
            and np.all(segments <= 1)
            and 0 <= truncated[0] <= self.examples
        )


class TokenCache:
    """Tokenised splits in files, which are made anew, with a warning, where they are damaged.

    A folder that cannot be written is no cache: one warning says so, and nothing more is kept.

    Args:
        folder: of the files, made where it is missing; what killed processes were writing there is removed.
        reporter: is warned then.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self._folder, self._reporter = folder, reporter
        self._writable = True
        with suppress(OSError):  # where it cannot be written, `write` says so
            sweep(folder, alone=False)

    def read(self, content: str, bounds: _Bounds) -> dict[str, np.ndarray] | None:
        """The arrays of the split whose hash is `content`; None where there are none, or not as they were written."""
        path = self._path(content)
        if not path.exists():
            return None
        try:
            file = read_tensors(path, digest_required=True, of="tokenised data")
            # Copies: what was checked is what is trained on, whatever becomes of the file.
            arrays = {name: tensor.numpy().copy() for name, tensor in file.tensors.items()}
            sound = file.metadata.get("content") == content and bounds.hold(arrays)
            reason = "" if sound else f"{path}: not the tokenised data that are looked for"
        except (InputError, OSError, TypeError) as error:  # NumPy lacks some of torch's dtypes
            arrays, reason = {}, str(error)
        if reason:
            self._reporter.warn(f"{reason}; they are tokenised anew")
        return None if reason else arrays

    def write(self, content: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of the split whose hash is `content`."""
        if not self._writable:
            return
        try:
            make_folder(self._folder)
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            write_tensors(self._path(content), tensors, {"content": content})
        except OSError as error:
            self._writable = False
            self._reporter.warn(f"{error.filename}: {error.strerror}; the tokenised data are not kept for the next run")

    def _path(self, content: str) -> Path:
        return self._folder / f"{content}.safetensors"


def _compose(
    task: Task, examples: Sequence[Example], tokenizer: Tokenizer, joint: bool, max_length: int
) -> dict[str, np.ndarray]:
    """The arrays of a split, as they are cached."""
    texts = [text for example in examples for text in _texts(task, example)]
    frame = tokenizer.pair if joint else tokenizer.single
    together = len(frame.text_segments)
    pieces = tokenizer.encode(texts)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    room = max_length - frame.size
    if room < together:
        raise InputError(
            f"--max-length {max_length}: {frame.size} of these tokens are special ones, which leave no room"
        )
    kept = _joint_lengths(lengths, room) if joint else np.minimum(lengths, room)
    cut = kept < lengths
    special = [np.array(group, np.int32) for group in frame.ids]
    parts: list[np.ndarray] = []
    for index, piece in enumerate(pieces):
        place = index % together
        if place == 0:
            parts.append(special[0])
        parts += [piece[: kept[index]], special[place + 1]]
    # A row a sequence, a column for each special token and each text: how many tokens it is.
    counts, segments = [], []
    for place, group in enumerate(frame.segments):
        counts += [np.ones(len(kept) // together, np.int64)] * len(group)
        segments += group
        if place < together:
            counts.append(kept[place::together])
            segments.append(frame.text_segments[place])
    shares = np.stack(counts, axis=1)
    return {
        "ids": np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32),
        "segments": np.repeat(np.tile(np.array(segments, np.uint8), len(shares)), shares.reshape(-1)),
        "cu_seqlens": np.concatenate([[0], np.cumsum(shares.sum(1))]).astype(np.int64),
        "truncated": np.array([cut.reshape(-1, 2 if task.pair else 1).any(1).sum()]),
    }


def _joint_lengths(lengths: np.ndarray, room: int) -> np.ndarray:
    """How much of each sentence is kept so that a pair fits, as the `longest_first` of Hugging Face's tokenizers keeps
    it: the longer one is cut, and where that does not suffice both have half; an odd wordpiece is the longer one's, or
    of two as long the second's."""
    first, second = lengths[0::2], lengths[1::2]
    shorter = np.minimum(first, second)
    over = first + second > room
    kept_shorter = np.where(over, np.minimum(shorter, room // 2), shorter)
    kept_longer = np.where(over, room - kept_shorter, np.maximum(first, second))
    kept = np.where(first > second, [kept_longer, kept_shorter], [kept_shorter, kept_longer])
    return kept.T.reshape(-1)


def _texts(task: Task, example: Example) -> tuple[str, ...]:
    return (example.first, example.second or "") if task.pair else (example.first,)


def _digest(arrays: Sequence[np.ndarray]) -> str:
    """sha256 (hex) of arrays: of their lengths and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{len(array)} ".encode() + array.tobytes())
    return found.hexdigest()


def _content_hash(task: Task, examples: Sequence[Example], tokenizer: Tokenizer, joint: bool, max_length: int) -> str:
    content = hashlib.sha256(f"{_FORMAT} {tokenizer.digest} {task.pair} {joint} {max_length}".encode())
    for example in examples:
        for text in _texts(task, example):
            encoded = text.encode("utf-8", "surrogatepass")
            # With its length in front, no text can be confused with two shorter ones.
            content.update(f"\n{len(encoded)} ".encode() + encoded)
    return content.hexdigest()
