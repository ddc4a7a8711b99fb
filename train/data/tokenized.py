"""Tokenised data sets: composed into sequences once, and cached by the hash of what decides them.

Large ones are composed in chunks by several processes, written as they come, and mapped from their file.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concord.bert.errors import InputError, did_you_mean
from concord.bert.files import make_folder, sweep
from concord.bert.mapped_files import Spooled, map_arrays, parts
from concord.bert.tensor_files import read_tensors, write_tensors
from concord.bert.tokenizer import Tokenizer
from concord.train.data.composing import DTYPES, compose
from concord.train.data.composing_pool import compose_chunks
from concord.train.data.tasks import Example, Task
from concord.train.reporter import SILENT, Reporter

_FORMAT = "3"  # of cached files; with a new number every old file is ignored
_LARGE = 1 << 18  # examples; larger sets are composed in chunks, whose processes take a second to begin
_CHUNK = 1 << 15  # examples that a process composes at a time
_MAPPED = 1 << 26  # bytes of a file that is mapped; smaller ones are copied
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
    reporter: Reporter = SILENT,
) -> TokenizedSplit:
    """Tokenise examples and add the special tokens that the tokenizer's template has.

    With BERT's a single sentence becomes [CLS] a [SEP]. A pair becomes [CLS] a [SEP] b [SEP] with segments 0 and 1
    (pair_encoding "joint"), or two sequences ("separate"). Sequences longer than max_length wordpieces are cut at the
    longer sentence first. cache: where the result is kept under the hash of the texts and all settings, and looked for.
    reporter: is told how far a large set has come. InputError for another pair_encoding, or a max_length that the
    special tokens fill.
    """
    if pair_encoding not in _PAIR_ENCODINGS:
        raise InputError(f"--pair-encoding {pair_encoding}: {did_you_mean(pair_encoding, _PAIR_ENCODINGS)}")
    joint = task.pair and pair_encoding == "joint"
    per_example = 2 if task.pair and not joint else 1
    content = _content_hash(task, examples, tokenizer, joint, max_length)
    bounds = _Bounds(len(examples), per_example, max_length, tokenizer.vocab_size)
    arrays = cache.read(content, bounds) if cache else None
    if arrays is None:
        options = {"per_example": 2 if task.pair else 1, "joint": joint, "max_length": max_length}
        compose_all = partial(_composed, task, examples, tokenizer, options, reporter)
        if len(examples) <= _LARGE:
            (arrays,) = compose_all()
            if cache:
                cache.write(content, arrays)
        else:
            if cache and cache.write_chunks(content, compose_all):
                arrays = cache.read(content, bounds)
            arrays = arrays or _joined(list(compose_all()))
    example_ids, labels = [], np.full(len(examples), np.nan, dtype=np.float32)
    for number, example in enumerate(examples):
        example_ids.append(example.id)
        if example.label is not None:
            labels[number] = example.label
    return TokenizedSplit(
        task=task,
        example_ids=example_ids,
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
        if {name: array.dtype for name, array in arrays.items()} != DTYPES:
            return False
        ids, segments, offsets, truncated = (arrays[name] for name in DTYPES)
        if offsets.shape != (self.examples * self.per_example + 1,) or truncated.shape != (1,):
            return False
        lengths = np.diff(offsets)
        return bool(
            ids.shape == segments.shape == (offsets[-1],)
            and offsets[0] == 0
            and np.all((lengths >= 1) & (lengths <= self.max_length))
            and all(np.all((part >= 0) & (part < self.vocab_size)) for part in parts(ids))
            and all(np.all(part <= 1) for part in parts(segments))
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
            if path.stat().st_size < _MAPPED:
                file = read_tensors(path, digest_required=True, of="tokenised data")
                metadata = file.metadata
                # Copies: what was checked is what is trained on, whatever becomes of the file.
                arrays = {name: tensor.numpy().copy() for name, tensor in file.tensors.items()}
            else:
                arrays, metadata = map_arrays(path, "tokenised data")
            sound = metadata.get("content") == content and bounds.hold(arrays)
            reason = "" if sound else f"{path}: not the tokenised data that are looked for"
        except (InputError, OSError, TypeError) as error:  # NumPy lacks some of torch's dtypes
            arrays, reason = {}, str(error)
        if reason:
            self._reporter.warn(f"{reason}; they are tokenised anew")
        return None if reason else arrays

    def write(self, content: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of the split whose hash is `content`."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._write(lambda: write_tensors(self._path(content), tensors, {"content": content}))

    def write_chunks(self, content: str, compose_all: Callable[[], Iterator[dict[str, np.ndarray]]]) -> bool:
        """Keep the arrays of the split whose hash is `content`, which come in chunks; whether that was possible."""

        def write() -> None:
            with Spooled(self._folder, np.int32) as ids, Spooled(self._folder, np.uint8) as segments:
                rest = []
                for chunk in compose_all():
                    ids.append(chunk["ids"])
                    segments.append(chunk["segments"])
                    rest.append({"cu_seqlens": chunk["cu_seqlens"], "truncated": chunk["truncated"]})
                small = {name: torch.from_numpy(array) for name, array in _joined(rest).items()}
                tensors = {"ids": ids, "segments": segments, **small}
                write_tensors(self._path(content), tensors, {"content": content})

        return self._write(write)

    def _write(self, write: Callable[[], object]) -> bool:
        if self._writable:
            try:
                make_folder(self._folder)
                write()
            except OSError as error:
                self._writable = False
                place = error.filename or self._folder
                self._reporter.warn(f"{place}: {error.strerror}; the tokenised data are not kept for the next run")
        return self._writable

    def _path(self, content: str) -> Path:
        return self._folder / f"{content}.safetensors"


def _texts(task: Task, example: Example) -> tuple[str, ...]:
    return (example.first, example.second or "") if task.pair else (example.first,)


def _composed(
    task: Task, examples: Sequence[Example], tokenizer: Tokenizer, options: Mapping[str, Any], reporter: Reporter
) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each chunk of a set, in their order; options: of `compose`."""

    def chunks() -> Iterator[list[str]]:
        texts: list[str] = []
        for number, example in enumerate(examples, 1):
            texts += _texts(task, example)
            if number % _CHUNK == 0 or number == len(examples):
                yield texts
                texts = []

    if len(examples) <= _LARGE:
        yield compose([text for example in examples for text in _texts(task, example)], tokenizer, **options)
        return
    with reporter.reading(f"{task.name}: texts to wordpieces", len(examples)):
        for chunk in compose_chunks(chunks(), tokenizer, torch.get_num_threads(), **options):
            yield chunk
            sequences = len(chunk["cu_seqlens"]) - 1
            reporter.read(sequences if options["joint"] else sequences // options["per_example"])


def _joined(chunks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a set, or some of them, of those of its chunks."""
    found = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    lengths = np.concatenate([np.diff(chunk["cu_seqlens"]) for chunk in chunks])
    return found | {
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]),
        "truncated": found["truncated"].sum(keepdims=True),
    }


def _digest(arrays: Sequence[np.ndarray]) -> str:
    """sha256 (hex) of arrays: of their lengths and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{len(array)} ".encode())
        for part in parts(array):
            found.update(part)
    return found.hexdigest()


def _content_hash(task: Task, examples: Sequence[Example], tokenizer: Tokenizer, joint: bool, max_length: int) -> str:
    content = hashlib.sha256(f"{_FORMAT} {tokenizer.digest} {task.pair} {joint} {max_length}".encode())
    for example in examples:
        for text in _texts(task, example):
            encoded = text.encode("utf-8", "surrogatepass")
            # With its length in front, no text can be confused with two shorter ones.
            content.update(f"\n{len(encoded)} ".encode() + encoded)
    return content.hexdigest()
