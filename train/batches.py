"""From tokenised examples to what a step needs: the packed batch and each task's labels, on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bert.batch import PackedBatch, PooledBatch, TaskTokens, pack
from train.sampler import MicroBatch
from train.tokenized import TokenizedSplit


@dataclass(frozen=True)
class LabelledBatch:
    """packed: the tokens, or what a frozen encoder has made of them; labels: task -> fp32 [examples], for the tasks
    that have examples in the batch."""

    packed: PackedBatch | PooledBatch
    labels: dict[str, Tensor]


def gather(
    splits: Mapping[str, TokenizedSplit],
    micro_batch: MicroBatch,
    device: torch.device | str = "cpu",
    *,
    accumulate: bool = False,
) -> LabelledBatch:
    """Gather the examples of a micro-batch from the tokenised sets.

    splits: task -> its set, in the order of the model's tasks; accumulate: see `bert.batch.pack`.
    """
    tokens = [_task_tokens(split, micro_batch[task]) for task, split in splits.items()]
    labels = {
        task: torch.from_numpy(split.labels[micro_batch[task]]).to(device, non_blocking=True)
        for task, split in splits.items()
        if len(micro_batch[task])
    }
    return LabelledBatch(pack(tokens, device, accumulate=accumulate), labels)


def _task_tokens(split: TokenizedSplit, examples: np.ndarray) -> TaskTokens:
    sequences = split.sequences_of(examples)
    starts = split.cu_seqlens[sequences]
    lengths = split.cu_seqlens[sequences + 1] - starts
    # Row i of the result is token i of its own sequence: the sequence's start plus the offset within it.
    ends = np.cumsum(lengths)
    rows = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
    return TaskTokens(ids=split.ids[rows], segments=split.segments[rows], lengths=lengths)
