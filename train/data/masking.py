"""Dynamic masking (Devlin et al., 2019; Liu et al., 2019): which wordpieces a language model has to name.

Of all wordpieces but special ones 15% are chosen anew each time a text is read: 80% of these become [MASK], 10% a
random wordpiece, and 10% stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concord.bert.batch import PackedBatch, TaskTokens, pack
from concord.bert.tokenizer import Tokenizer

CHOSEN_SHARE = 0.15
_MASKED_SHARE, _REPLACED_SHARE = 0.8, 0.1  # of the chosen


@dataclass(frozen=True)
class MaskedTokens:
    """Sequences whose chosen wordpieces are masked.

    Attributes:
        ids: int32 [tokens], after masking.
        lengths: int64 [sequences], tokens of each.
        positions: int64 [chosen], ascending: where the chosen wordpieces are.
        targets: int64 [chosen], their ids before masking.
    """

    ids: np.ndarray
    lengths: np.ndarray
    positions: np.ndarray
    targets: np.ndarray

    def to_device(self, device: torch.device, *, accumulate: bool = False) -> tuple[PackedBatch, Tensor, Tensor]:
        """The packed batch, the positions and the targets, both int64; accumulate: see `bert.batch.pack`."""
        tokens = TaskTokens(ids=self.ids, segments=np.zeros_like(self.ids), lengths=self.lengths)
        batch = pack([tokens], device, accumulate=accumulate)
        return batch, *(torch.from_numpy(values).to(device) for values in (self.positions, self.targets))


def mask_sequences(sequences: Sequence[np.ndarray], tokenizer: Tokenizer, random: np.random.Generator) -> MaskedTokens:
    """Join the sequences, int [tokens] each with its special tokens, and mask them."""
    ids = np.concatenate([*sequences, np.zeros(0)]).astype(np.int32)
    special = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    chosen = (random.random(len(ids)) < CHOSEN_SHARE) & ~np.isin(ids, special)
    positions = np.flatnonzero(chosen)
    targets = ids[positions].astype(np.int64)
    fate = random.random(len(positions))
    others = random.integers(0, tokenizer.vocab_size, len(positions), dtype=np.int32)
    shown = np.where(fate < _MASKED_SHARE + _REPLACED_SHARE, others, ids[positions])
    ids[positions] = np.where(fate < _MASKED_SHARE, tokenizer.mask_id, shown)
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    return MaskedTokens(ids, lengths, positions, targets)
