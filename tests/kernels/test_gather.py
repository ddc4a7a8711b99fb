"""Batches gathered on the device: against sequences cut out of the data one by one."""

import numpy as np
import pytest
import torch

from concord.kernels.dispatch import using_kernels
from concord.kernels.gather import Corpus, gather_tokens
from tests.kernels.parity import DEVICE

LENGTHS = np.array([3, 1, 0, 40, 7, 300, 128, 129, 2, 64])


def corpus_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids, segments = random.integers(1, 30_000, starts[-1]), random.integers(0, 2, starts[-1])
    on_device = Corpus(
        ids=torch.tensor(ids, dtype=torch.int32, device=DEVICE),
        segments=torch.tensor(segments, dtype=torch.uint8, device=DEVICE),
        cu_seqlens=torch.tensor(starts, device=DEVICE),
    )
    return ids, segments, starts, on_device


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("spare", [0, 1, 300])
@pytest.mark.parametrize(
    ("chosen", "offsets"),
    [
        ([4, 0, 3, 5], [0, 1, 1, 4]),
        ([9], [0, 1]),
        ([2, 2], [0, 1, 2]),
        ([], [0, 0, 0]),
        (list(np.resize(np.arange(10), 700)), [0, 100, 513, 700]),
    ],
)
def test_chosen_sequences_follow_each_other_and_zeros_follow_them(kernels, chosen, offsets, spare):
    ids, segments, starts, corpus = corpus_of(LENGTHS)
    pieces = [slice(starts[number], starts[number + 1]) for number in chosen]
    lengths = np.array([piece.stop - piece.start for piece in pieces], dtype=np.int64)
    stops, tail = np.concatenate([[0], np.cumsum(lengths)]), np.zeros(spare, dtype=np.int64)
    with using_kernels(kernels):
        found = gather_tokens(
            corpus,
            torch.tensor(chosen, dtype=torch.int64, device=DEVICE),
            torch.tensor(offsets, dtype=torch.int32, device=DEVICE),
            int(lengths.sum()) + spare,
        )
    expected = {
        "ids": np.concatenate([*(ids[piece] for piece in pieces), tail]),
        "positions": np.concatenate([*(np.arange(length) for length in lengths), tail]),
        "segments": np.concatenate([*(segments[piece] for piece in pieces), tail]),
        "cu_seqlens": stops,
        "first": stops[:-1],
        "token_offsets": stops[offsets],
    }
    for name, values in expected.items():
        value = getattr(found, name)
        assert value.dtype == (torch.int64 if name == "first" else torch.int32)
        assert value.tolist() == values.tolist(), name
