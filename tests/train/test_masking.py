"""Masking: how often, what of, and what becomes of the chosen wordpieces."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from concord.train.data.masking import mask_sequences

TOKENIZER = SimpleNamespace(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=1000)


def sequences(count=400, length=100):
    """[CLS] words [SEP], with some [UNK] and [MASK] among the words."""
    random = np.random.default_rng(0)
    words = random.integers(0, 1000, (count, length), dtype=np.int32)
    words[:, ::10] = TOKENIZER.unk_id
    words[:, 0], words[:, -1] = TOKENIZER.cls_id, TOKENIZER.sep_id
    return list(words)


def test_shares_are_those_of_bert():
    texts = sequences()
    found = mask_sequences(texts, TOKENIZER, np.random.default_rng(1))
    words = (np.concatenate(texts) > 4).sum()
    assert len(found.positions) / words == pytest.approx(0.15, abs=0.006)
    now = found.ids[found.positions]
    assert (now == TOKENIZER.mask_id).mean() == pytest.approx(0.8, abs=0.02)
    assert (now == found.targets).mean() == pytest.approx(0.1, abs=0.015)
    replaced = now[(now != TOKENIZER.mask_id) & (now != found.targets)]
    assert len(replaced) / len(now) == pytest.approx(0.1, abs=0.015)
    assert replaced.mean() == pytest.approx(500, abs=50), "replacements come from the whole vocabulary"


def test_targets_are_what_stood_there_and_all_else_stays():
    texts = sequences()
    original, found = np.concatenate(texts), mask_sequences(texts, TOKENIZER, np.random.default_rng(1))
    assert (found.targets == original[found.positions]).all()
    assert (np.diff(found.positions) > 0).all()
    elsewhere = np.ones(len(original), dtype=bool)
    elsewhere[found.positions] = False
    assert (found.ids[elsewhere] == original[elsewhere]).all()
    assert found.lengths.tolist() == [100] * 400


def test_special_tokens_are_never_chosen():
    found = mask_sequences(sequences(), TOKENIZER, np.random.default_rng(1))
    assert found.targets.min() > 4
    nothing = mask_sequences([np.array([2, 3]), np.array([2, 1, 4, 0, 3])], TOKENIZER, np.random.default_rng(1))
    assert nothing.positions.tolist() == []
    assert nothing.ids.tolist() == [2, 3, 2, 1, 4, 0, 3]


def test_the_generator_decides_the_masks():
    first, again, other = (mask_sequences(sequences(), TOKENIZER, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.ids == again.ids).all()
    assert set(first.positions) != set(other.positions)


def test_on_the_device_it_is_a_packed_batch_of_one_task():
    found = mask_sequences(sequences(3, 10), TOKENIZER, np.random.default_rng(4))
    batch, positions, targets = found.to_device(torch.device("cpu"), accumulate=True)
    assert batch.ids.tolist() == found.ids.tolist()
    assert batch.token_rows.bounds == (0, 30)
    assert batch.token_rows.accumulate
    assert not batch.segments.any()
    assert (positions.dtype, targets.dtype) == (torch.int64, torch.int64)
    assert targets.tolist() == found.targets.tolist()
