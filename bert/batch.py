"""A packed batch: the tokens of every task's sequences in one row, never padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import HostSequences, Sequences


@dataclass(frozen=True, kw_only=True)
class TaskTokens:
    """One task's sequences of a batch, end to end.

    ids: int [tokens], wordpieces with their special tokens.
    segments: int [tokens], 0 or 1.
    lengths: int [sequences], each in tokens.
    """

    ids: np.ndarray
    segments: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """What the encoder reads. Tasks are contiguous, in order; a task may have no sequence.

    ids: int32 [tokens] on the device, wordpieces with their special tokens.
    positions: int32 [tokens] on the device, each token's place in its sequence.
    segments: int32 [tokens] on the device, 0 or 1.
    sequences: where each sequence begins and ends.
    token_rows: which tokens belong to which task.
    sequence_rows: which sequences belong to which task.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    sequences: Sequences
    token_rows: TaskRows
    sequence_rows: TaskRows


@dataclass(frozen=True, kw_only=True)
class PooledBatch:
    """What the heads read where the encoder has been run before.

    pooled: [sequences, hidden], the encoder's pooled outputs.
    sequence_rows: which of them belong to which task.
    """

    pooled: Tensor
    sequence_rows: TaskRows


def pack(tasks: Sequence[TaskTokens], device: torch.device | str = "cpu", *, accumulate: bool = False) -> PackedBatch:
    """Pack the sequences of each task into one batch.

    accumulate: whether the backward adds to the task gradients (from the second micro-batch of a step on) instead of
    overwriting them. Everything is built on the host; nothing on the device is ever asked for a length.
    """

    def row(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int32)).to(device, non_blocking=True)

    lengths = np.concatenate([task.lengths for task in tasks]).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    return PackedBatch(
        ids=row([task.ids for task in tasks]),
        positions=row([positions]),
        segments=row([task.segments for task in tasks]),
        sequences=HostSequences(lengths, device),
        token_rows=TaskRows.of_counts([len(task.ids) for task in tasks], device, accumulate=accumulate),
        sequence_rows=TaskRows.of_counts([len(task.lengths) for task in tasks], device, accumulate=accumulate),
    )
