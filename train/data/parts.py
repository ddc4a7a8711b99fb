"""Each rank's part of a micro-batch, with about as many tokens as the others'."""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concord.train.data.sampler import MicroBatch
from concord.train.data.tokenized import TokenizedSplit
from concord.train.ranks.gathering import Others, Whole
from concord.train.ranks.group import Ranks


@dataclass(frozen=True)
class Parts:
    """Divides the micro-batches of a step, which all ranks draw alike, among them.

    Attributes:
        ranks: among which.
        splits: task -> its set, in the order of the model's tasks.
        compared: the tasks whose losses compare the examples of a micro-batch.
        device: of the run.
    """

    ranks: Ranks
    splits: Mapping[str, TokenizedSplit]
    compared: Collection[str]
    device: torch.device

    def of_step(self, micro_batches: Sequence[MicroBatch]) -> list[tuple[MicroBatch, Others]]:
        """This rank's part of each micro-batch of a step, and what it has to know of the others' parts."""
        found = []
        for number, micro_batch in enumerate(micro_batches):
            owners = divide(micro_batch, self.splits, self.ranks.size)
            part = {task: own[owners[task] == self.ranks.rank] for task, own in micro_batch.items()}
            wholes = {
                task: self._whole(self.splits[task], own, owners[task])
                for task, own in micro_batch.items()
                if len(own) and task in self.compared
            }
            last, tokens = number == len(micro_batches) - 1, self._most_tokens(micro_batch, owners)
            found.append((part, Others(wholes, last, tokens)))
        return found

    def _most_tokens(self, micro_batch: MicroBatch, owners: Mapping[str, np.ndarray]) -> int:
        """Of the rank that has the most."""
        tokens = np.zeros(self.ranks.size)
        for task, own in micro_batch.items():
            lengths = _lengths(self.splits[task], own)
            tokens += np.bincount(owners[task], weights=lengths, minlength=self.ranks.size)
        return int(tokens.max())

    def _whole(self, split: TokenizedSplit, examples: np.ndarray, owners: np.ndarray) -> Whole:
        counts = np.bincount(owners, minlength=self.ranks.size)
        places = np.empty(len(examples), dtype=np.int64)
        for rank, count in enumerate(counts):
            places[owners == rank] = rank * counts.max() + np.arange(count)
        return Whole(
            ranks=self.ranks,
            counts=tuple(counts.tolist()),
            places=_send(places, self.device),
            mine=_send(np.flatnonzero(owners == self.ranks.rank), self.device),
            labels=_send(split.labels[examples], self.device),
            per_example=split.sequences_per_example,
        )


def divide(micro_batch: MicroBatch, splits: Mapping[str, TokenizedSplit], size: int) -> dict[str, np.ndarray]:
    """Task -> int64, the rank of each of its examples: the longest first, each to the rank that has the fewest tokens.

    So no two ranks' tokens differ by more than the longest example has. It depends on the micro-batch alone.
    """
    lengths = [_lengths(splits[task], own) for task, own in micro_batch.items()]
    every = np.concatenate(lengths)
    owners, ranks = np.empty(len(every), dtype=np.int64), [(0, rank) for rank in range(size)]
    for index in np.argsort(-every, kind="stable"):
        tokens, owners[index] = ranks[0]
        heapq.heapreplace(ranks, (tokens + int(every[index]), int(owners[index])))
    pieces = np.split(owners, np.cumsum([len(own) for own in lengths])[:-1])
    return dict(zip(micro_batch, pieces, strict=True))


def _lengths(split: TokenizedSplit, examples: np.ndarray) -> np.ndarray:
    """The tokens of each example."""
    first = examples * split.sequences_per_example
    return split.cu_seqlens[first + split.sequences_per_example] - split.cu_seqlens[first]


def _send(values: np.ndarray, device: torch.device) -> Tensor:
    """A few numbers to the device, without waiting for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
