"""What a rank knows of the others' parts of a micro-batch, and the rows of all for losses that compare its examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concord.train.ranks.group import Ranks


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks, most: int, places: Tensor, mine: Tensor) -> Tensor:
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = rows.new_empty(ranks.size * most, *rows.shape[1:])
        ranks.gather(gathered, padded).wait()
        ctx.save_for_backward(mine)
        return gathered.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (mine,) = ctx.saved_tensors
        return gradient.index_select(0, mine), None, None, None, None


@dataclass(frozen=True)
class Whole:
    """A task's examples in a whole micro-batch, as every rank knows them.

    Attributes:
        ranks: which have them.
        counts: how many each of them has.
        places: int64 [n], each example's place among the gathered ones: a rank's places follow those of the rank
            before it, and are as many as the rank with the most examples needs.
        mine: int64, which of the examples this rank has.
        labels: fp32 [n].
        per_example: sequences that an example has.
    """

    ranks: Ranks
    counts: tuple[int, ...]
    places: Tensor
    mine: Tensor
    labels: Tensor
    per_example: int

    @property
    def tells(self) -> bool:
        """Whether this rank is the one that counts a loss of the whole, the first that has an example: every rank that
        has one computes it."""
        return next(rank for rank, count in enumerate(self.counts) if count) == self.ranks.rank

    def gather(self, rows: Tensor, per_example: int) -> Tensor:
        """All ranks' `rows`, [own * per_example, m], in the micro-batch's order, [n * per_example, m]; called on all
        ranks, those without any included.

        The gradient of what is gathered reaches this rank's own rows alone. Every rank that has some computes the same
        loss of the whole from the same numbers, and so has the whole's gradient in them without being sent any.
        """
        examples = rows.reshape(-1, per_example, rows.shape[1])
        return _Gather.apply(examples, self.ranks, max(self.counts), self.places, self.mine).flatten(0, 1)

    def count(self, loss: Tensor) -> Tensor:
        """`loss` with its gradient, and with its value on one rank alone, so that the ranks' values add up to it."""
        return loss if self.tells else loss - loss.detach()


@dataclass(frozen=True)
class Others:
    """What a rank knows of the other ranks' parts of a micro-batch.

    Attributes:
        wholes: task -> its examples on all ranks, of the tasks in the micro-batch whose losses compare them.
        last: whether it is the step's last micro-batch.
        tokens: of it, on the rank that has the most.
    """

    wholes: Mapping[str, Whole]
    last: bool
    tokens: int
