"""The boundaries of the packed sequences: cu_seqlens for the kernels, groups of similar length for the reference."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sequences of similar length, which the reference pads to the longest of them.

    members: int64 [size], the indices of the group's sequences.
    mask: fp32 [size, 1, 1, length], 0 at tokens and -inf at padding; None where nothing is padded.
    start: the group's first row among the padded ones.
    size: the number of its sequences.
    length: the tokens of its longest sequence.
    """

    members: Tensor
    mask: Tensor | None
    start: int
    size: int
    length: int

    def rows(self, padded: Tensor) -> Tensor:
        """The group's part of `padded` [padded rows, *rest], as a view [size, length, *rest]."""
        part = padded[self.start : self.start + self.size * self.length]
        return part.view(self.size, self.length, *padded.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How all groups are padded at once.

    groups: in the order of their padded rows.
    sources: int64 [padded rows], the token that each padded row copies: its own, or at padding its sequence's last.
    slots: int64 [tokens], the padded row of each token.
    is_token: fp32 [padded rows], 1 at tokens and 0 at padding.
    """

    groups: list[Group]
    sources: Tensor
    slots: Tensor
    is_token: Tensor

    def pad(self, packed: Tensor) -> Tensor:
        """`packed` [tokens, *rest] as [padded rows, *rest]; padding repeats a token."""
        return packed.index_select(0, self.sources)

    def pad_with_zeros(self, packed: Tensor) -> Tensor:
        """`packed` [tokens, *rest] as [padded rows, *rest]; padding is zero."""
        padded = self.pad(packed)
        return padded.mul_(self.is_token.to(padded.dtype).view(-1, *[1] * (padded.ndim - 1)))

    def unpad(self, padded: Tensor) -> Tensor:
        """The tokens' rows of `padded` [padded rows, *rest], as [tokens, *rest]."""
        return padded.index_select(0, self.slots)


class Sequences:
    """Where each sequence of a packed batch begins and ends, as far as the kernels need to know.

    Attributes:
        cu_seqlens: int32 [sequences + 1] on the device; sequence s owns rows cu_seqlens[s] to cu_seqlens[s + 1].
        first: int64 [sequences] on the device, the row of each sequence's first token ([CLS]).
        max_length: no sequence has more tokens.
    """

    def __init__(self, cu_seqlens: Tensor, first: Tensor, max_length: int) -> None:
        self.cu_seqlens, self.first, self.max_length = cu_seqlens, first, max_length

    @property
    def padding(self) -> Padding:
        """What the references need and only `HostSequences` know; RuntimeError here."""
        raise RuntimeError("the lengths of these sequences are on the device alone, and the torch reference needs them")


class HostSequences(Sequences):
    """Sequences whose lengths the host knows.

    Args:
        lengths: int [sequences], each at least 1.
        device: where the boundaries are needed.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device | str = "cpu") -> None:
        if len(lengths) and lengths.min() < 1:
            raise ValueError("every packed sequence needs at least one token")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.device = torch.device(device)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        super().__init__(
            torch.from_numpy(self._starts.astype(np.int32)).to(self.device),
            torch.from_numpy(self._starts[:-1]).to(self.device),
            int(self.lengths.max(initial=0)),
        )

    @cached_property
    def padding(self) -> Padding:
        """The sequences sorted by length, in groups whose longest pads the shortest by a fifth at most."""
        order = np.argsort(self.lengths, kind="stable")
        groups, sources, present = [], [], []
        start = padded = 0
        for stop in range(1, len(order) + 1):
            if stop < len(order) and self.lengths[order[stop]] <= self.lengths[order[start]] * 1.2 + 1:
                continue
            members = order[start:stop]
            lengths, length = self.lengths[members][:, None], int(self.lengths[members[-1]])
            offsets = np.minimum(np.arange(length), lengths - 1)
            sources.append((self._starts[members][:, None] + offsets).reshape(-1))
            is_token = np.arange(length) < lengths
            present.append(is_token.reshape(-1))
            groups.append(self._group(members, is_token, padded))
            padded += is_token.size
            start = stop
        source_rows = np.concatenate([*sources, np.zeros(0, np.int64)])
        is_token = np.concatenate([*present, np.zeros(0, bool)])
        slots = np.empty(self._starts[-1], dtype=np.int64)
        slots[source_rows[is_token]] = np.flatnonzero(is_token)
        return Padding(
            groups=groups,
            sources=torch.from_numpy(source_rows).to(self.device),
            slots=torch.from_numpy(slots).to(self.device),
            is_token=torch.from_numpy(is_token.astype(np.float32)).to(self.device),
        )

    def _group(self, members: np.ndarray, is_token: np.ndarray, start: int) -> Group:
        mask = None
        if not is_token.all():
            mask = torch.from_numpy(np.where(is_token, 0.0, -np.inf).astype(np.float32))[:, None, None, :]
            mask = mask.to(self.device)
        return Group(
            members=torch.from_numpy(members).to(self.device),
            mask=mask,
            start=start,
            size=is_token.shape[0],
            length=is_token.shape[1],
        )
