"""Batches gathered on the device from the tokenised data that lie there: only the examples' indices come from the host.

Sizes are rounded up, so that few different ones occur: each needs a CUDA graph of its own.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concord.bert.batch import PackedBatch
from concord.kernels.gather import Corpus, gather_tokens
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import Sequences
from concord.train.data.batches import LabelledBatch
from concord.train.data.sampler import MicroBatch
from concord.train.data.tokenized import TokenizedSplit

_FEWEST_TOKENS = 64  # token counts are rounded up to a multiple of this, or of a greater power of two


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a packed batch, which a CUDA graph fixes.

    Attributes:
        examples: how many of each task.
        tokens: rows of the batch; those after the last token are padding.
        smoothed_tokens: rows of the batch of the tasks with SMART's regulariser, 0 for none.
        max_length: tokens that no sequence exceeds.
    """

    examples: tuple[int, ...]
    tokens: int
    smoothed_tokens: int
    max_length: int


class DeviceBatches:
    """The tokenised training sets on the device, and batches of them.

    Args:
        splits: task -> its set, in the order of the model's tasks.
        device: where the sets are kept: 5 bytes a token.
        smoothed: tasks with SMART's regulariser.
    """

    def __init__(
        self, splits: Mapping[str, TokenizedSplit], device: torch.device, *, smoothed: Collection[str] = ()
    ) -> None:
        sets = list(splits.values())
        self._splits, self._device = dict(splits), device
        self._smoothed = [task in smoothed for task in splits]
        self._per_example = [split.sequences_per_example for split in sets]
        self._first_sequence = _starts([len(split.cu_seqlens) - 1 for split in sets])
        self._first_example = _starts([len(split) for split in sets])
        first_token = _starts([len(split.ids) for split in sets])
        boundaries = [split.cu_seqlens[:-1] + first for split, first in zip(sets, first_token, strict=False)] + [
            first_token[-1:]
        ]
        self._corpus = Corpus(
            ids=torch.from_numpy(np.concatenate([split.ids for split in sets])).to(device),
            segments=torch.from_numpy(np.concatenate([split.segments for split in sets])).to(device),
            cu_seqlens=torch.from_numpy(np.concatenate(boundaries)).to(device),
        )
        self._labels = torch.from_numpy(np.concatenate([split.labels for split in sets])).to(device)
        self._offsets: dict[tuple[int, ...], TaskRows] = {}

    def plan(self, micro_batches: Sequence[MicroBatch]) -> tuple[list[BatchShape], np.ndarray]:
        """Of a step's micro-batches: the shape of each, and the numbers that `gather` reads, int64.

        All have the size of the largest, so that few different steps occur.
        """
        examples, numbers, tokens, smoothed_tokens, longest = [], [], 1, 0, 1
        for micro_batch in micro_batches:
            chosen = [micro_batch[task] for task in self._splits]
            sequences = [split.sequences_of(own) for split, own in zip(self._splits.values(), chosen, strict=True)]
            boundaries = [split.cu_seqlens for split in self._splits.values()]
            lengths = [cu[own + 1] - cu[own] for own, cu in zip(sequences, boundaries, strict=True)]
            sums = [int(own.sum()) for own in lengths]
            tokens = max(tokens, sum(sums))
            smoothed_tokens = max(smoothed_tokens, sum(itertools.compress(sums, self._smoothed)))
            longest = max(longest, *(int(own.max(initial=1)) for own in lengths))
            numbers += [own + first for own, first in zip(sequences, self._first_sequence, strict=False)]
            numbers += [own + first for own, first in zip(chosen, self._first_example, strict=False)]
            examples.append(tuple(len(own) for own in chosen))
        sizes = round_tokens(tokens), smoothed_tokens and round_tokens(smoothed_tokens), round_length(longest)
        shapes = [BatchShape(own, *sizes) for own in examples]
        return shapes, np.concatenate(numbers)

    def numbers(self, shape: BatchShape) -> int:
        """How many of the numbers of `plan` a batch of `shape` reads."""
        return sum(shape.examples) + self._sequence_rows(shape.examples).bounds[-1]

    def gather(self, shape: BatchShape, numbers: Tensor, *, accumulate: bool) -> LabelledBatch:
        """The batch of `shape` that `numbers`, int64 on the device, stand for; accumulate: see `bert.batch.pack`."""
        rows = self._sequence_rows(shape.examples)
        sequences = rows.bounds[-1]
        labels = self._labels.index_select(0, numbers[sequences:]).split(list(shape.examples))
        return LabelledBatch(
            self._pack(shape.examples, numbers[:sequences], shape.tokens, shape.max_length, accumulate=accumulate),
            {task: own for task, own in zip(self._splits, labels, strict=True) if len(own)},
            self._pack_smoothed(shape, numbers[:sequences]),
        )

    def _pack_smoothed(self, shape: BatchShape, numbers: Tensor) -> PackedBatch | None:
        examples = tuple(own if chosen else 0 for own, chosen in zip(shape.examples, self._smoothed, strict=True))
        if not any(examples):
            return None
        slices = [rows for _, rows in self._sequence_rows(shape.examples).slices()]
        chosen = torch.cat([numbers[rows] for rows in itertools.compress(slices, self._smoothed)])
        return self._pack(examples, chosen, shape.smoothed_tokens, shape.max_length, accumulate=True)

    def _pack(
        self, examples: tuple[int, ...], numbers: Tensor, tokens: int, max_length: int, *, accumulate: bool
    ) -> PackedBatch:
        """numbers: int64, of the sequences in the corpus; the other arguments as in `BatchShape`."""
        sequence_rows = self._sequence_rows(examples)
        gathered = gather_tokens(self._corpus, numbers, sequence_rows.offsets, tokens)
        return PackedBatch(
            ids=gathered.ids,
            positions=gathered.positions,
            segments=gathered.segments,
            sequences=Sequences(gathered.cu_seqlens, gathered.first, max_length),
            token_rows=TaskRows(offsets=gathered.token_offsets, bounds=None, accumulate=accumulate),
            sequence_rows=TaskRows(offsets=sequence_rows.offsets, bounds=sequence_rows.bounds, accumulate=accumulate),
        )

    def _sequence_rows(self, examples: tuple[int, ...]) -> TaskRows:
        # Kept on the device, since a CUDA graph cannot contain a copy from the host.
        if examples not in self._offsets:
            counts = [own * count for own, count in zip(examples, self._per_example, strict=True)]
            self._offsets[examples] = TaskRows.of_counts(counts, self._device)
        return self._offsets[examples]


def round_tokens(tokens: int) -> int:
    """`tokens` rounded up by an eighth at most, or to the next 64: few different sizes, little padding."""
    multiple = max(_FEWEST_TOKENS, round_length(tokens + 1) // 16)
    return -(-tokens // multiple) * multiple


def round_length(number: int) -> int:
    """The least power of two, 16 at least, that is not below `number`: few different greatest lengths."""
    return max(16, 1 << (number - 1).bit_length())


def _starts(counts: Sequence[int]) -> np.ndarray:
    """Where each of consecutive pieces begins, and where the last one ends: int64 [pieces + 1]."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
