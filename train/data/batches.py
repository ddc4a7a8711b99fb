"""From tokenised examples to what a step needs: the packed batch and each task's labels, on the device."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from concord.bert.batch import PackedBatch, PooledBatch, TaskTokens, pack
from concord.train.data.sampler import MicroBatch
from concord.train.data.tokenized import TokenizedSplit
from concord.train.ranks.gathering import Others


@dataclass(frozen=True)
class LabelledBatch:
    """What a step reads of one micro-batch.

    Attributes:
        packed: the tokens, or what a frozen encoder has made of them; None where this rank has no example of it.
        labels: task -> fp32 [examples], for the tasks that have examples in the batch.
        smoothed: the sequences of the tasks with SMART's regulariser, packed by themselves, if there are any.
        others: what is known of the other ranks' parts of it; None for a process that is alone.
    """

    packed: PackedBatch | PooledBatch | None
    labels: dict[str, Tensor]
    smoothed: PackedBatch | None = None
    others: Others | None = None


def gather(
    splits: Mapping[str, TokenizedSplit],
    micro_batch: MicroBatch,
    device: torch.device | str = "cpu",
    *,
    accumulate: bool = False,
    smoothed: Collection[str] = (),
) -> LabelledBatch:
    """Gather the examples of a micro-batch from the tokenised sets.

    splits: task -> its set, in the order of the model's tasks; accumulate: see `bert.batch.pack`; smoothed: tasks with
    SMART's regulariser.
    """

    def packed(examples: MicroBatch, *, accumulate: bool) -> PackedBatch:
        return pack(
            [_task_tokens(split, examples[task]) for task, split in splits.items()], device, accumulate=accumulate
        )

    labels = {
        task: torch.from_numpy(split.labels[micro_batch[task]]).to(device, non_blocking=True)
        for task, split in splits.items()
        if len(micro_batch[task])
    }
    again = {task: own if task in smoothed else own[:0] for task, own in micro_batch.items()}
    return LabelledBatch(
        packed(micro_batch, accumulate=accumulate),
        labels,
        packed(again, accumulate=True) if any(len(own) for own in again.values()) else None,
    )


def whole_step(
    parts: Sequence[tuple[MicroBatch, Others | None]], gather_one: Callable[[MicroBatch, bool], LabelledBatch]
) -> Iterator[LabelledBatch]:
    """The batches of a step, one after the other: a rank has a batch without tokens where it has no example.

    parts: of each micro-batch; gather_one: is given it, and whether its gradients are added to earlier ones.
    """
    written = False
    for part, others in parts:
        if any(map(len, part.values())):
            yield replace(gather_one(part, written), others=others)
            written = True
        else:
            yield LabelledBatch(None, {}, others=others)


def _task_tokens(split: TokenizedSplit, examples: np.ndarray) -> TaskTokens:
    sequences = split.sequences_of(examples)
    starts = split.cu_seqlens[sequences]
    lengths = split.cu_seqlens[sequences + 1] - starts
    # Row i of the result is token i of its own sequence: the sequence's start plus the offset within it.
    ends = np.cumsum(lengths)
    rows = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
    return TaskTokens(ids=split.ids[rows], segments=split.segments[rows], lengths=lengths)
