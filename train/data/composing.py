"""From texts to the arrays of a tokenised set: their wordpieces in the tokenizer's frame, cut to the maximum length."""

from collections.abc import Sequence

import numpy as np

from concord.bert.errors import InputError
from concord.bert.tokenizer import Tokenizer

DTYPES = {"ids": np.int32, "segments": np.uint8, "cu_seqlens": np.int64, "truncated": np.int64}
"""Of the arrays of a set."""


def compose(
    texts: Sequence[str], tokenizer: Tokenizer, *, per_example: int, joint: bool, max_length: int
) -> dict[str, np.ndarray]:
    """The arrays of a set, see `tokenized.TokenizedSplit`, and `truncated`, int64 [1]: how many examples are cut.

    texts: of one example after the other; per_example: how many each has; joint: whether a pair is one sequence.
    InputError for a max_length that the special tokens fill, and where `Tokenizer.encode` raises it.
    """
    frame = tokenizer.pair if joint else tokenizer.single
    together = len(frame.text_segments)
    pieces = tokenizer.encode(texts)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    room = max_length - frame.size
    if room < together:
        raise InputError(
            f"--max-length {max_length}: {frame.size} of these tokens are special ones, which leave no room"
        )
    kept = _joint_lengths(lengths, room) if joint else np.minimum(lengths, room)
    cut = kept < lengths
    special = [np.array(group, np.int32) for group in frame.ids]
    parts: list[np.ndarray] = []
    for index, piece in enumerate(pieces):
        place = index % together
        if place == 0:
            parts.append(special[0])
        parts += [piece[: kept[index]], special[place + 1]]
    # A row a sequence, a column for each special token and each text: how many tokens it is.
    counts, segments = [], []
    for place, group in enumerate(frame.segments):
        counts += [np.ones(len(kept) // together, np.int64)] * len(group)
        segments += group
        if place < together:
            counts.append(kept[place::together])
            segments.append(frame.text_segments[place])
    shares = np.stack(counts, axis=1)
    return {
        "ids": np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32),
        "segments": np.repeat(np.tile(np.array(segments, np.uint8), len(shares)), shares.reshape(-1)),
        "cu_seqlens": np.concatenate([[0], np.cumsum(shares.sum(1))]).astype(np.int64),
        "truncated": np.array([cut.reshape(-1, per_example).any(1).sum()]),
    }


def _joint_lengths(lengths: np.ndarray, room: int) -> np.ndarray:
    """How much of each sentence is kept so that a pair fits, as the `longest_first` of Hugging Face's tokenizers keeps
    it: the longer one is cut, and where that does not suffice both have half; an odd wordpiece is the longer one's, or
    of two as long the second's."""
    first, second = lengths[0::2], lengths[1::2]
    shorter = np.minimum(first, second)
    over = first + second > room
    kept_shorter = np.where(over, np.minimum(shorter, room // 2), shorter)
    kept_longer = np.where(over, room - kept_shorter, np.maximum(first, second))
    kept = np.where(first > second, [kept_longer, kept_shorter], [kept_shorter, kept_longer])
    return kept.T.reshape(-1)
