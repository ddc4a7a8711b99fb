"""Dropout masks from the counter-based generator Philox4x32-7 (Salmon et al., 2011, "Parallel random numbers").

A mask is a pure function of a seed, a site (which of the step's dropouts this is) and the element's index, so it can
be drawn anew anywhere instead of being kept, and neither a resumed run nor another device changes it. One call of the
generator gives 128 bits, which serve eight elements with 16 bits each: rates are multiples of 2^-16.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concord.kernels.dispatch import launches_native, uses_triton
from concord.kernels.ops import DROPOUT_LEVELS

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 7  # the fewest with which Philox4x32 passes BigCrush
_SITES = 1 << 16  # sites of one forward pass: no model has as many dropouts
_OF_LOSSES, _OF_A_LOSS = _SITES // 2, 16  # the first site of losses, and those of one task's
STREAMS = 1 << 15  # forward passes of one step


@dataclass(frozen=True)
class Dropout:
    """One dropout of a training step.

    rate: the share of elements set to zero, from 0 to `concord.kernels.ops.HIGHEST_RATE`.
    seed: int64 scalar on the device, one a step.
    site: which dropout of the step this is; no two share one.
    """

    rate: float
    seed: Tensor
    site: int

    @property
    def threshold(self) -> int:
        """Elements whose 16 random bits, as a number, lie below it are dropped."""
        return round(self.rate * DROPOUT_LEVELS)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by: one over their share."""
        return DROPOUT_LEVELS / (DROPOUT_LEVELS - self.threshold)

    def mask(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """What the elements are multiplied by: 0 where dropped, `scale` where kept; `shape`, `dtype`."""
        count = math.prod(shape)
        if launches_native(self.seed.device):
            factors = torch.ops.concord_native.dropout_factors(*kernel_arguments(self), count)
            return factors.view(shape).to(dtype)
        calls = torch.arange((count + 7) // 8, device=self.seed.device)
        return self._factors(calls, dtype).view(-1)[:count].view(shape)

    def attention_mask(self, rows: Tensor, heads: int, keys: int, dtype: torch.dtype) -> Tensor:
        """The same for attention's probabilities: [size, heads, queries, keys].

        rows: int64 [size, queries], each query's row among the packed tokens. An element depends on its query's row,
        its head and its key's place in the sequence, and not on how the sequences are grouped or tiled.
        """
        head = torch.arange(heads, device=rows.device)
        eighths = torch.arange((keys + 7) // 8, device=rows.device)
        calls = (rows[:, None, :, None] * heads + head[:, None, None]) + (eighths << 32)
        return self._factors(calls, dtype).flatten(-2)[..., :keys]

    def _factors(self, calls: Tensor, dtype: torch.dtype) -> Tensor:
        """The factors that each call of the generator gives: [*calls.shape, 8]."""
        words = torch.stack(philox(self.seed, calls, self.site), dim=-1)
        lanes = words.to(torch.int32).view(torch.int16)
        # The lanes are signed: shifted by half the range, the threshold orders them as the unsigned values.
        return (lanes >= self.threshold - DROPOUT_LEVELS // 2).to(dtype).mul_(self.scale)


class DropoutStream:
    """Hands out the dropouts of one forward pass, each with a site of its own.

    seed: int64 scalar on the device, one a step; micro_batch: which forward pass of the step this is, below `STREAMS`.
    """

    def __init__(self, seed: Tensor, micro_batch: int = 0) -> None:
        self._seed = seed
        self._next_site = micro_batch * _SITES

    @classmethod
    def of_loss(cls, seed: Tensor, micro_batch: int, task: int) -> "DropoutStream":
        """The stream of a task's losses, which is the same whatever the forward pass has drawn."""
        stream = cls(seed, micro_batch)
        stream._next_site += _OF_LOSSES + task * _OF_A_LOSS
        return stream

    def __call__(self, rate: float) -> Dropout | None:
        """The next dropout, or None where the rate is 0."""
        site = self._next_site
        self._next_site += 1
        return Dropout(rate, self._seed, site) if rate > 0 else None


def philox(seed: Tensor, counter: Tensor, site: int, rounds: int = _ROUNDS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 at counters (counter low, counter high, site, 0) under the 64-bit key `seed`.

    seed: int64 scalar; counter: int64 [n]. Returns four int64 [n] tensors with values in [0, 2^32).
    """
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    word0, word1 = counter & _MASK, counter >> 32
    word2, word3 = torch.full_like(counter, site), torch.zeros_like(counter)
    for _ in range(rounds):
        # In int64 the products overflow, and their bits are those of the unsigned products. Words 1 and 3 are the lower
        # halves; the upper halves are left in them, since only exclusive ors follow until a mask removes them.
        product0, product1 = word0 * _MULTIPLIERS[0], word2 * _MULTIPLIERS[1]
        word0 = (product1 >> 32).bitwise_xor_(word1).bitwise_xor_(key0).bitwise_and_(_MASK)
        word2 = (product0 >> 32).bitwise_xor_(word3).bitwise_xor_(key1).bitwise_and_(_MASK)
        word1, word3 = product1, product0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _MASK, (key1 + _KEY_STEPS[1]) & _MASK
    return word0, word1 & _MASK, word2, word3 & _MASK


def kernel_arguments(dropout: Dropout | None) -> tuple[Tensor | None, int, int, float]:
    """Seed, site, threshold and scale as launchers pass them on; a seed of None where there is no dropout."""
    if dropout is None:
        return None, 0, 0, 1.0
    return dropout.seed, dropout.site, dropout.threshold, dropout.scale


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        ctx.dropout = dropout
        return _times_mask(x, dropout)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _times_mask(dy, ctx.dropout), None


def _times_mask(x: Tensor, dropout: Dropout) -> Tensor:
    if uses_triton("dropout", x):
        from concord.kernels.dropout_kernels import drop

        return drop(x, *kernel_arguments(dropout))
    return x * dropout.mask(tuple(x.shape), x.dtype)


def dropped(x: Tensor, dropout: Dropout | None) -> Tensor:
    """`x` times the mask of `dropout`, in any shape and dtype; x itself for None. The mask is drawn anew in the
    backward: an element is read once and written once in each direction."""
    return x if dropout is None else _Dropped.apply(x, dropout)
