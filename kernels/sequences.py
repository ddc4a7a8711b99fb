"""The boundaries of the packed sequences: cu_seqlens for the kernels, groups of similar length for the reference."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sequences of similar length, which the reference pads to the longest of them.

    tokens: int64 [n], the packed rows of the group's tokens.
    slots: int64 [n], where each of them lies in the padded [size * length] rows.
    members: int64 [size], the indices of the group's sequences.
    mask: fp32 [size, 1, 1, length], 0 at tokens and -inf at padding; None where nothing is padded.
    """

    tokens: Tensor
    slots: Tensor
    members: Tensor
    mask: Tensor | None
    size: int
    length: int

    def pad(self, packed: Tensor) -> Tensor:
        """The group's rows of `packed` [tokens, *rest] as [size, length, *rest], zeros at padding."""
        if self.mask is None:
            return packed.index_select(0, self.tokens).view(self.size, self.length, *packed.shape[1:])
        padded = packed.new_zeros(self.size * self.length, *packed.shape[1:])
        padded.index_copy_(0, self.slots, packed.index_select(0, self.tokens))
        return padded.view(self.size, self.length, *packed.shape[1:])

    def unpad(self, padded: Tensor, packed: Tensor) -> None:
        """Write `padded` [size, length, *rest] back to the group's rows of `packed` [tokens, *rest]."""
        flat = padded.reshape(self.size * self.length, *padded.shape[2:])
        packed.index_copy_(0, self.tokens, flat if self.mask is None else flat.index_select(0, self.slots))


class Sequences:
    """Where each sequence of a packed batch begins and ends.

    Args:
        lengths: int [sequences], on the host, each at least 1.
        device: where the boundaries are needed.

    Attributes:
        cu_seqlens: int32 [sequences + 1] on the device; sequence s owns rows cu_seqlens[s] to cu_seqlens[s + 1].
        first: int64 [sequences] on the device, the row of each sequence's first token ([CLS]).
        max_length: the longest sequence, in tokens.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device | str = "cpu") -> None:
        if len(lengths) and lengths.min() < 1:
            raise ValueError("every packed sequence needs at least one token")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.device = torch.device(device)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.cu_seqlens = torch.from_numpy(self._starts.astype(np.int32)).to(self.device)
        self.first = torch.from_numpy(self._starts[:-1]).to(self.device)
        self.max_length = int(self.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """The number of tokens over all sequences."""
        return int(self._starts[-1])

    @cached_property
    def groups(self) -> list[Group]:
        """The sequences sorted by length and cut where the longest would pad the shortest by more than a fifth."""
        order = np.argsort(self.lengths, kind="stable")
        groups, start = [], 0
        for stop in range(1, len(order) + 1):
            if stop == len(order) or self.lengths[order[stop]] > self.lengths[order[start]] * 1.2 + 1:
                groups.append(self._group(order[start:stop]))
                start = stop
        return groups

    def _group(self, members: np.ndarray) -> Group:
        lengths = self.lengths[members]
        length = int(lengths[-1])
        present = np.arange(length) < lengths[:, None]
        tokens = (self._starts[members][:, None] + np.arange(length))[present]
        mask = None
        if not present.all():
            mask = torch.from_numpy(np.where(present, 0.0, -np.inf).astype(np.float32))[:, None, None, :]
            mask = mask.to(self.device)
        return Group(
            tokens=torch.from_numpy(tokens).to(self.device),
            slots=torch.from_numpy(np.flatnonzero(present)).to(self.device),
            members=torch.from_numpy(members).to(self.device),
            mask=mask,
            size=len(members),
            length=length,
        )
