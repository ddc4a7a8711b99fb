"""The interpreter's bf16 against torch's, bit by bit: casts, arithmetic, comparisons, sums and products."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.interpreter.support import BF16_IS_TRUE

pytestmark = pytest.mark.skipif(not BF16_IS_TRUE, reason="needs the interpreter of Triton 3.7")

EVERY = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
"""Every bf16 that there is, NaNs, infinities and denormals among them."""
BLOCK = 1 << 16


@triton.jit
def _cast_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at).to(y.dtype.element_ty))


def cast(x, dtype):
    """`x.to(dtype)`, by the interpreter."""
    y = torch.empty(x.shape, dtype=dtype)
    _cast_kernel[(len(x) // BLOCK,)](x, y, BLOCK)
    return y


def assert_same_bits(found, expected):
    """Equal bit by bit, but that a NaN may be any NaN."""
    assert found.dtype == expected.dtype
    assert torch.equal(found.isnan(), expected.isnan())
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    numbers = ~found.isnan()
    assert torch.equal(found[numbers].view(bits), expected[numbers].view(bits))


def random_bits(seed):
    return EVERY[torch.randperm(1 << 16, generator=torch.Generator().manual_seed(seed))]


def test_fp32_is_rounded_to_the_nearest_and_ties_to_even():
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper + lower).to(torch.uint32).view(torch.float32)
        assert_same_bits(cast(x, torch.bfloat16), x.bfloat16())


def test_nan_stays_nan_whatever_its_bits():
    x = torch.full((BLOCK,), 0x7F800001, dtype=torch.int32).view(torch.float32)  # a NaN in its last bit alone
    assert cast(x, torch.bfloat16).isnan().all()
    assert cast(-x, torch.bfloat16).isnan().all()


def test_fp64_is_rounded_once():
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    tie = (upper + 0x8000).to(torch.uint32).view(torch.float32).double()
    beneath = upper.to(torch.uint32).view(torch.float32).bfloat16()
    above = (upper + (1 << 16)).to(torch.uint32).view(torch.float32).bfloat16()
    finite = above.isfinite() & beneath.isfinite()
    # fp32 cannot tell these from a tie, and torch, which rounds to fp32 first, takes them for one.
    for factor, expected in ((1 - 2**-40, beneath), (1 + 2**-40, above)):
        assert torch.equal(cast(tie * factor, torch.bfloat16)[finite], expected[finite])
    x = torch.tensor([1e300, -1e300, torch.inf, 1e-300, -1e-300, torch.nan, 1.0, 3e38]).double().repeat(BLOCK // 8)
    assert_same_bits(cast(x, torch.bfloat16), x.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_bf16_becomes_other_floats(dtype):
    assert_same_bits(cast(EVERY, dtype), EVERY.to(dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_bf16_becomes_integers_by_cutting_off(dtype):
    limit = torch.iinfo(dtype).max
    x = torch.where(EVERY.float().abs() < limit, EVERY, 0)
    assert torch.equal(cast(x, dtype), x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8, torch.uint8, torch.int32, torch.int64])
def test_other_types_become_bf16(dtype):
    if dtype.is_floating_point:
        x = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    else:
        least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        x = torch.randint(least, most, (BLOCK,), dtype=dtype) >> torch.arange(BLOCK) % (dtype.itemsize * 8)
    assert_same_bits(cast(x.to(dtype), torch.bfloat16), x.bfloat16())


@triton.jit
def _truth_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(y + at, value.to(tl.int1))
    tl.store(y + BLOCK + at, (value > 0).to(tl.bfloat16) + 1)


def test_truth_values_of_bf16():
    y = torch.empty(2, BLOCK, dtype=torch.int8)
    _truth_kernel[(1,)](EVERY, y, BLOCK)
    assert torch.equal(y[0].bool(), EVERY != 0)
    assert torch.equal(y[1] - 1, (EVERY > 0).to(torch.int8))


@triton.jit
def _arithmetic_kernel(x, y, results, truths, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(results + at, a + b)
    tl.store(results + BLOCK + at, a - b)
    tl.store(results + 2 * BLOCK + at, a * b)
    tl.store(results + 3 * BLOCK + at, -a)
    tl.store(results + 4 * BLOCK + at, tl.abs(a))
    tl.store(results + 5 * BLOCK + at, tl.where(a < b, a, b))
    tl.store(results + 6 * BLOCK + at, a * 0.1 + 3)
    tl.store(results + 7 * BLOCK + at, tl.full([BLOCK], 0.1, tl.bfloat16))
    tl.store(results + 8 * BLOCK + at, tl.maximum(a, b))
    tl.store(results + 9 * BLOCK + at, tl.minimum(a, b))
    tl.store(results + 10 * BLOCK + at, (a * b + a) * b)
    tl.store(truths + at, a < b)
    tl.store(truths + BLOCK + at, a <= b)
    tl.store(truths + 2 * BLOCK + at, a == b)
    tl.store(truths + 3 * BLOCK + at, a != b)
    tl.store(truths + 4 * BLOCK + at, (a > b) | (a >= b))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflows and NaNs, which are meant
def test_every_operation_is_rounded():
    a, b = random_bits(1), random_bits(2)
    found = torch.empty(11, BLOCK, dtype=torch.bfloat16)
    truths = torch.empty(5, BLOCK, dtype=torch.bool)
    _arithmetic_kernel[(1,)](a, b, found, truths, BLOCK)
    tenth = torch.full_like(a, 0.1)
    expected = [a + b, a - b, a * b, 0 - a, a.abs(), torch.where(a < b, a, b), a * tenth + 3, tenth]
    expected += [torch.maximum(a, b), torch.minimum(a, b), (a * b + a) * b]
    for own, other in zip(found, expected, strict=True):
        assert_same_bits(own, other)
    for own, other in zip(truths, [a < b, a <= b, a == b, a != b, a >= b], strict=True):
        assert torch.equal(own, other)


@triton.jit
def _wide_kernel(x, y, results, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(results + at, a / b)
    tl.store(results + BLOCK + at, a + b.to(tl.float32))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_quotients_and_sums_with_fp32_are_fp32():
    a, b = random_bits(3), random_bits(4)
    found = torch.empty(2, BLOCK)
    _wide_kernel[(1,)](a, b, found, BLOCK)
    assert_same_bits(found[0], a.float() / b.float())
    assert_same_bits(found[1], a + b.float())


@triton.jit
def _masked_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at % 2 == 0, other=1.7), mask=at % 3 != 0)


def test_loads_and_stores_keep_every_bit_and_other_values_are_rounded():
    y = torch.full((BLOCK,), 2.0).bfloat16()
    _masked_kernel[(1,)](EVERY, y, BLOCK)
    at = torch.arange(BLOCK)
    expected = torch.where(at % 2 == 0, EVERY, 1.7)
    expected = torch.where(at % 3 != 0, expected, 2.0)
    assert np.array_equal(y.view(torch.uint16).numpy(), expected.view(torch.uint16).numpy())


@triton.jit
def _reduce_kernel(x, rows, columns, kept, all_of_it, largest, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tile = tl.load(x + row[:, None] * COLUMNS + column[None, :])
    tl.store(rows + row, tl.sum(tile, 1))
    tl.store(columns + column, tl.sum(tile, 0))
    tl.store(kept + row[:, None], tl.sum(tile, 1, keep_dims=True))
    tl.store(all_of_it, tl.sum(tile))
    tl.store(largest + row, tl.max(tile, 1))


def halved(x):
    """The sum over the first dimension, half after half."""
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


@pytest.mark.parametrize("shape", [(1, 1), (2, 64), (32, 1), (16, 128)])
def test_sums_are_rounded_at_each_step_and_the_largest_is_exact(shape):
    x = (torch.randn(shape) * 3).bfloat16()
    rows, kept, largest = (torch.empty(shape[0], dtype=torch.bfloat16) for _ in range(3))
    columns, all_of_it = torch.empty(shape[1], dtype=torch.bfloat16), torch.empty(1, dtype=torch.bfloat16)
    _reduce_kernel[(1,)](x, rows, columns, kept, all_of_it, largest, *shape)
    assert_same_bits(rows, halved(x.T))
    assert_same_bits(kept, halved(x.T))
    assert_same_bits(columns, halved(x))
    assert_same_bits(all_of_it[0], halved(x.flatten()))
    assert_same_bits(largest, x.amax(1))


@triton.jit
def _dot_kernel(a, b, total, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    left, right = tl.load(a + m[:, None] * K + k[None, :]), tl.load(b + n[:, None] * K + k[None, :])
    at = total + m[:, None] * N + n[None, :]
    tl.store(at, tl.dot(left, tl.trans(right), tl.load(at)))


def product(a, b, total):
    total = total.clone()
    _dot_kernel[(1,)](a, b, total, len(a), len(b), a.shape[1])
    return total


@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (32, 64, 128)])
def test_products_are_those_of_the_operands_in_fp32(m, n, k):
    # Whole numbers, whose products and sums fp32 holds exactly, in whichever order they are added.
    a, b = torch.randint(-100, 100, (m, k)).bfloat16(), torch.randint(-100, 100, (n, k)).bfloat16()
    total = torch.randint(-1000, 1000, (m, n)).float()
    assert_same_bits(product(a, b, total), total + a.float() @ b.float().T)
    a, b, total = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16(), torch.randn(m, n)
    assert_close(product(a, b, total), total.double() + a.double() @ b.double().T, TOLERANCES[torch.float32])


@triton.jit
def _fma_kernel(x):
    value = tl.load(x)
    tl.store(x, tl.fma(value, value, value))


def test_a_fused_product_and_sum_is_refused():
    with pytest.raises(InterpreterError, match="not interpreted"):
        _fma_kernel[(1,)](torch.ones(1).bfloat16())
