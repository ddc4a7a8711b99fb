"""Philox against its published answers, and what its masks promise."""

import pytest
import torch
import triton
import triton.language as tl

from concord.kernels.checks.ops import dropout_case
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import Dropout, DropoutStream, dropped, philox
from concord.kernels.dropout_kernels import dropout_bits
from tests.kernels.parity import DEVICE, DTYPES, check


def test_philox_gives_the_known_answer_of_its_authors():
    # The all-zero vector of Random123's known-answer tests for philox4x32-10.
    words = philox(torch.tensor(0), torch.tensor([0]), 0, rounds=10)
    assert [f"{word.item():08x}" for word in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_philox_agrees_with_a_scalar_implementation():
    def scalar(counter, key):
        mask = 0xFFFFFFFF
        for _ in range(7):
            low, high = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
            counter = [
                (high >> 32) ^ counter[1] ^ key[0],
                high & mask,
                (low >> 32) ^ counter[3] ^ key[1],
                low & mask,
            ]
            key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
        return counter

    seed, site = 0x7ABCDEF012345678, 9
    counters = [0, 1, 0xFFFFFFFF, 0x100000000, 0x1234567890]
    found = torch.stack(philox(torch.tensor(seed), torch.tensor(counters), site), 1).tolist()
    key = [seed & 0xFFFFFFFF, seed >> 32]
    assert found == [scalar([c & 0xFFFFFFFF, c >> 32, site, 0], key) for c in counters]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_keep_the_said_share_and_the_expectation(rate):
    mask = Dropout(rate, torch.tensor(3), 0).mask((1000, 203), torch.float32)
    assert abs((mask > 0).float().mean().item() - (1 - rate)) < 0.01
    assert abs(mask.mean().item() - 1) < 0.02
    assert mask.unique().numel() == 2


def test_a_mask_is_replayed():
    dropout = Dropout(0.3, torch.tensor(8), 4)
    assert torch.equal(dropout.mask((100,), torch.float32), dropout.mask((100,), torch.float32))


def test_attention_masks_depend_on_row_head_and_key_alone():
    dropout = Dropout(0.3, torch.tensor(8), 4)
    rows = torch.arange(12).view(3, 4)
    whole = dropout.attention_mask(rows, 2, 21, torch.float32)
    assert whole.shape == (3, 2, 4, 21)
    assert torch.equal(dropout.attention_mask(rows[1:2, 2:], 2, 5, torch.float32), whole[1:2, :, 2:, :5])
    assert abs((whole > 0).float().mean().item() - 0.7) < 0.05


def test_seeds_and_sites_give_different_masks():
    masks = [Dropout(0.5, torch.tensor(seed), site).mask((64,), torch.float32) for seed in (1, 2) for site in (0, 1)]
    assert len({tuple(mask.tolist()) for mask in masks}) == 4


def test_a_stream_numbers_its_sites_whatever_the_rates():
    stream = DropoutStream(torch.tensor(1))
    assert stream(0.0) is None
    assert stream(0.1).site == 1


@triton.jit
def _bits_kernel(seed, bits, site, threshold, CALLS: tl.constexpr):
    call = tl.arange(0, CALLS)
    tl.store(bits + call, dropout_bits(tl.load(seed), call, call * 0, site, threshold))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_bits_that_kernels_draw_are_those_of_the_mask(rate):
    dropout = Dropout(rate, torch.tensor(2**40 + 8, device=DEVICE), 4)
    bits = torch.empty(64, dtype=torch.int32, device=DEVICE)
    _bits_kernel[(1,)](dropout.seed, bits, dropout.site, dropout.threshold, CALLS=64)
    kept = bits[:, None] >> torch.arange(8, device=DEVICE) & 1
    assert torch.equal(kept.flatten() != 0, dropout.mask((512,), torch.float32) != 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (32, 384), (5, 1023)])
def test_the_dropout_of_heads_is_its_mask_in_both_directions(shape, dtype):
    check(dropout_case(*shape, dtype, DEVICE))


@pytest.mark.parametrize("kernels", ["triton", "torch"])
def test_dropped_features_are_the_mask_times_them_to_the_bit(kernels):
    dropout = Dropout(0.3, torch.tensor(2**40 + 8, device=DEVICE), 4)
    x = torch.randn(9, 21, device=DEVICE, requires_grad=True)
    with using_kernels(kernels):
        y = dropped(x, dropout)
        y.backward(torch.ones_like(y))
    mask = dropout.mask((9, 21), torch.float32)
    assert torch.equal(y, x * mask)
    assert torch.equal(x.grad, mask)


def test_no_dropout_leaves_what_it_is_given():
    x = torch.randn(3)
    assert dropped(x, None) is x
