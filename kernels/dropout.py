"""Dropout masks from the counter-based generator Philox4x32-7 (Salmon et al., 2011, "Parallel random numbers").

A mask is a pure function of a seed, a site (which of the step's dropouts this is) and the element's index, so it can
be drawn anew anywhere instead of being kept, and neither a resumed run nor another device changes it. One call of the
generator gives 128 bits, which serve eight elements with 16 bits each: rates are multiples of 2^-16.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 7  # the fewest with which Philox4x32 passes BigCrush
_LEVELS = 1 << 16


@dataclass(frozen=True)
class Dropout:
    """One dropout of a training step.

    rate: the share of elements set to zero, in [0, 1).
    seed: int64 scalar on the device, one a micro-batch.
    site: which dropout of the forward pass this is; no two share one.
    """

    rate: float
    seed: Tensor
    site: int

    def mask(self, shape: tuple[int, ...], dtype: torch.dtype, start: int = 0) -> Tensor:
        """What the elements are multiplied by: 0 where dropped, 1 over the kept share where kept; `shape`, `dtype`.

        start: the first element's index within the site, a multiple of 8.
        """
        threshold = round(self.rate * _LEVELS)
        count = math.prod(shape)
        counter = torch.arange(start // 8, start // 8 + (count + 7) // 8, device=self.seed.device)
        lanes = torch.stack(philox(self.seed, counter, self.site), dim=1).to(torch.int32).view(torch.int16)
        # The lanes are signed: shifted by half the range, the threshold orders them as the unsigned values.
        kept = lanes.view(-1)[:count] >= threshold - _LEVELS // 2
        return kept.to(dtype).mul_(_LEVELS / (_LEVELS - threshold)).view(shape)


class DropoutStream:
    """Hands out the dropouts of one forward pass, each with a site of its own."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed
        self._next_site = 0

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
        # The products wrap around in int64 with the bits of the unsigned ones. Words 1 and 3, their lower halves, keep
        # the upper halves too: these meet nothing but exclusive ors until a mask takes them off.
        product0, product1 = word0 * _MULTIPLIERS[0], word2 * _MULTIPLIERS[1]
        word0 = (product1 >> 32).bitwise_xor_(word1).bitwise_xor_(key0).bitwise_and_(_MASK)
        word2 = (product0 >> 32).bitwise_xor_(word3).bitwise_xor_(key1).bitwise_and_(_MASK)
        word1, word3 = product1, product0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _MASK, (key1 + _KEY_STEPS[1]) & _MASK
    return word0, word1 & _MASK, word2, word3 & _MASK
