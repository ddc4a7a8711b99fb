"""The attention kernels against fp64: short, mixed and tiled, with dropout, empty sequences and padding rows."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from concord.kernels.attention import mixed_kernels
from concord.kernels.attention.configurations import (
    BlockConfiguration,
    Blocks,
    block_configuration,
    tiled_configuration,
)
from concord.kernels.attention.first_token_kernels import first_token_backward, first_token_forward
from concord.kernels.attention.launch import attention_backward, attention_forward
from concord.kernels.attention.mixed_kernels import next_place, sequence_ends
from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.attention.shared_tile_kernels import own_tile
from concord.kernels.attention.short_kernels import short_tile
from concord.kernels.attention.tiles import tile_width
from concord.kernels.checks.autograd import new_dropout
from concord.kernels.checks.ops import attention_case, first_token_case
from concord.kernels.dispatch import using_kernels
from concord.kernels.dropout import kernel_arguments
from concord.kernels.layout.sequences import HostSequences
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE, DTYPES, INTERPRETED, check

SHORT, LONG, ONES = (3, 1, 17, 2, 2), (100, 7), (*(1,) * 18, 2)
# Of lone tokens alone the gradients of q and k are zero: an error would have nothing to be relative to.
PAIR = (1, 2)
# More sequences than a group of eight, in tiles of 32 and of 64 rows that hold one, several, and as many as just fit.
SHARED, MIXED = (1, 1, 2, 31, 32, 5, 3, 24, 26, 7, 1), (33, 31, 2, 64, 5, 40, 17, 6, 1, 9)
BOTH = (3, 66, 1, 2, 65, 64, 5, 1, 1, 70, 4)  # long ones between short ones, in two groups
# Of a group that has more places than programs, so that some have several, on blocks and on tiles.
CROWDED = (*(96, 1) * 4, *(2,) * 24)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(
    ("lengths", "heads", "size"),
    [
        (PAIR, 2, 32),
        (SHORT, 2, 8),
        (ONES, 1, 32),
        (SHARED, 1, 32),
        (SHARED, 1, 64),
        pytest.param(MIXED, 1, 32, marks=pytest.mark.slow),
        pytest.param(MIXED, 1, 64, marks=pytest.mark.slow),
        pytest.param(LONG, 2, 32, marks=pytest.mark.slow),
        (LONG, 1, 64),
        pytest.param(BOTH, 1, 32, marks=pytest.mark.slow),
        (CROWDED, 1, 32),
        pytest.param(CROWDED, 1, 64, marks=pytest.mark.slow),
        (SHORT, 1, 128),
        pytest.param(LONG, 1, 128, marks=pytest.mark.slow),
    ],
)
def test_the_kernels_are_as_accurate_as_torch(lengths, heads, size, rate, dtype):
    check(attention_case(lengths, heads, size, dtype, DEVICE, rate=rate))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(512, 1, 100), (127, 128, 129, 63, 65, 192, 193)])
def test_sequences_of_several_blocks_are_as_accurate_as_torch(lengths, dtype):
    check(attention_case(lengths, 1, 64, dtype, DEVICE, rate=0.1))


@pytest.mark.skipif(not INTERPRETED, reason="the GPU's own blocks are judged above, and others may be miscompiled")
@pytest.mark.parametrize("blocks", [Blocks(64, 64, 32, 4), Blocks(64, 32, 32, 4), Blocks(32, 32, 16, 4)])
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_the_blocks_of_every_architecture_are_as_accurate_as_torch(monkeypatch, blocks, rate):
    monkeypatch.setattr(mixed_kernels, "block_configuration", lambda qkv: BlockConfiguration(blocks, blocks))
    check(attention_case(BOTH, 1, 64, torch.float16, DEVICE, rate=rate))


@pytest.mark.parametrize(("lengths", "size"), [(SHORT, 32), ((128, 3, 70, 1), 32), ((128, 3, 70, 1), 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_whatever_the_lengths_the_forward_is_one_launch_and_the_backward_one(monkeypatch, lengths, size, dtype):
    launched = []
    kind = type(_own_tiles_kernel)  # of compiled functions, or of interpreted ones
    launch = kind.run

    def count(kernel, *arguments, **options):
        launched.append(kernel.fn.__name__)
        return launch(kernel, *arguments, **options)

    monkeypatch.setattr(kind, "run", count)
    qkv = random(sum(lengths), 3, 1, size).to(DEVICE, dtype)
    arguments = HostSequences(np.array(lengths), DEVICE).cu_seqlens, max(lengths), *kernel_arguments(None)
    out, log_sums = attention_forward(qkv, *arguments)
    assert len(launched) == 1, launched
    attention_backward(torch.ones_like(out), qkv, out, log_sums, *arguments)
    assert len(launched) == 2, launched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(("lengths", "heads", "size"), [(PAIR, 1, 32), (SHORT, 3, 32), (LONG, 2, 64), (SHORT, 2, 8)])
def test_first_tokens_are_as_accurate_as_torch(lengths, heads, size, rate, dtype):
    check(first_token_case(lengths, heads, size, dtype, DEVICE, rate=rate))


@triton.jit
def _own_tiles_kernel(cu_seqlens, starts, stops, sequences, GROUP: tl.constexpr, TILE: tl.constexpr):
    start, stop, _ = own_tile(cu_seqlens, sequences, GROUP, TILE)
    at = tl.program_id(0) * GROUP + tl.program_id(2)
    tl.store(starts + at, start)
    tl.store(stops + at, stop)


@pytest.mark.parametrize("empty", [0, 9])
@pytest.mark.parametrize(
    ("lengths", "group", "tile", "expected"),
    [
        ((1,) * 19, 8, 32, [8, 8, 3]),
        ((32, 32, 1), 8, 32, [32, 32, 1]),
        ((16, 16, 1, 31, 1, 30, 2), 8, 32, [32, 32, 31, 2]),
        ((20, 20, 5, 5, 20, 2, 3, 1, 9), 8, 32, [20, 30, 26, 9]),
        ((20, 20, 5, 5, 20, 2, 3, 1, 9), 4, 64, [50, 26, 9]),
        ((3, 4, 5), 1, 32, [3, 4, 5]),
        ((40, 3, 33, 100, 5, 6, 32, 1, 65, 2), 8, 32, [40, 3, 33, 100, 11, 32, 1, 65, 2]),
    ],
)
def test_a_tile_holds_as_many_whole_sequences_of_a_group_as_fit(lengths, group, tile, expected, empty):
    cu_seqlens = torch.tensor([0, *np.cumsum((*lengths, *[0] * empty))], dtype=torch.int32, device=DEVICE)
    sequences = len(cu_seqlens) - 1
    groups = triton.cdiv(sequences, group)
    starts, stops = torch.full((2, groups * group), -1, dtype=torch.int32, device=DEVICE)
    _own_tiles_kernel[(groups, 1, group)](cu_seqlens, starts, stops, sequences, GROUP=group, TILE=tile)
    filled = [(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True) if start < stop]
    assert [stop - start for start, stop in filled] == expected
    assert [start for start, _ in filled] == [0, *[stop for _, stop in filled[:-1]]]


@triton.jit
def _places_kernel(cu_seqlens, found, sequences, most, GROUP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):
    ends = sequence_ends(cu_seqlens, sequences, GROUP)
    start = tl.load(cu_seqlens + tl.program_id(0) * GROUP)
    place = tl.program_id(2)
    for own in range(tl.program_id(2), most, tl.num_programs(2)):
        start, stop, place = next_place(ends, start, place, 2, TILE, BLOCK)
        at = found + 3 * (tl.program_id(0) * most + own)
        tl.store(at, start)
        tl.store(at + 1, stop)
        tl.store(at + 2, place)
        place += tl.num_programs(2)


@pytest.mark.parametrize("programs", [1, 3, 8, 40])
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((20, 12, 1), [(0, 32), (32, 33)]),
        ((33, 2), [*[(0, 33)] * 4, (33, 35)]),
        ((5, 100, 6, 7, 40), [(0, 5), *[(5, 105)] * 8, (105, 118), *[(118, 158)] * 4]),
        ((1,) * 8 + (65, 2, 64), [(0, 8), *[(8, 73)] * 6, (73, 75), *[(75, 139)] * 4]),
    ],
)
def test_a_long_sequence_has_a_place_for_the_queries_and_one_for_the_keys_of_each_of_its_blocks(
    lengths, expected, programs
):
    cu_seqlens = torch.tensor([0, *np.cumsum((*lengths, 0, 0))], dtype=torch.int32, device=DEVICE)
    sequences, most = len(cu_seqlens) - 1, 64
    groups = triton.cdiv(sequences, 8)
    found = torch.full((groups, most, 3), -1, dtype=torch.int32, device=DEVICE)
    _places_kernel[(groups, 1, programs)](cu_seqlens, found, sequences, most, GROUP=8, TILE=32, BLOCK=32)
    filled = [(start, stop, place) for group in found.tolist() for start, stop, place in group if start < stop]
    assert [(start, stop) for start, stop, _ in filled] == expected
    # Those of one tile or sequence are numbered from 0 on.
    numbers = [place - expected[:index].count((start, stop)) for index, (start, stop, place) in enumerate(filled)]
    assert not any(numbers)


@pytest.mark.parametrize(
    ("dtype", "size", "max_length", "expected"),
    [
        (torch.bfloat16, 32, 1, 64),
        (torch.bfloat16, 64, 65, 64),
        (torch.bfloat16, 128, 5, 0),
        (torch.float32, 32, 1, 32),
        (torch.float32, 32, 64, 64),
        (torch.float32, 64, 32, 32),
        (torch.float32, 64, 33, 32),
    ],
)
def test_the_tile_is_of_what_the_longest_needs_and_fits_and_of_32_rows_or_of_64_where_shorter_sides_are_miscompiled(
    dtype, size, max_length, expected
):
    assert short_tile(torch.empty(1, 3, 1, size, dtype=dtype), max_length) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [8, 32, 64, 128])
def test_on_sm_90_every_side_of_a_product_of_16_bits_is_of_64_at_least(size, dtype):
    qkv = torch.empty(1, 3, 1, size, dtype=dtype)
    *tiles, _ = tiled_configuration(qkv)
    blocks = block_configuration(qkv)
    sides = [side for own in tiles for side in (own.queries, own.keys)]
    sides += [side for own in blocks for side in (own.tile, own.rows, own.step)]
    assert min(tile_width(qkv), *sides) >= 64


@pytest.mark.parametrize("lengths", [SHORT, SHARED, MIXED, LONG, CROWDED])
def test_the_same_elements_drop_as_in_the_reference(lengths):
    # Equal scores and v = 1: an output is the share of kept keys, a multiple of 1 / length.
    qkv = torch.zeros(sum(lengths), 3, 2, 32, device=DEVICE)
    qkv[:, 2] = 1
    found = []
    for kernels in ("torch", "triton"):
        with using_kernels(kernels):
            found.append(attention(qkv, HostSequences(np.array(lengths), DEVICE), new_dropout(0.3, DEVICE)))
    assert_close(found[1], found[0], TOLERANCES[torch.float32])
    assert found[0].std() > 0.01


@pytest.mark.parametrize(
    ("lengths", "empty", "max_length", "size"),
    [((3, 17, 5), 2, 17, 32), ((3, 17, 5), 2, 130, 32), ((3, 17, 5), 2, 17, 128), (ONES, 14, 1, 32)],
)
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.usefixtures("poisoned")
def test_rows_after_the_last_sequence_and_empty_sequences_give_zeros(lengths, empty, max_length, size, rate):
    padding = 40
    whole = random(sum(lengths) + padding, 3, 2, size).to(DEVICE)
    upstream = random(sum(lengths) + padding, 2, size).to(DEVICE)
    arguments = kernel_arguments(new_dropout(rate, DEVICE))
    exact = HostSequences(np.array(lengths), DEVICE).cu_seqlens
    # As in a batch of fixed size: the last boundary is repeated.
    repeated = torch.cat([exact, exact[-1:].expand(empty)])
    with using_kernels("triton"):
        out, log_sums = attention_forward(whole, repeated, max_length, *arguments)
        gradient = attention_backward(upstream, whole, out, log_sums, repeated, max_length, *arguments)
        tokens = sum(lengths)
        part, part_sums = attention_forward(whole[:tokens], exact, max_length, *arguments)
        expected = attention_backward(upstream[:tokens], whole[:tokens], part, part_sums, exact, max_length, *arguments)
    assert torch.equal(out[:tokens], part)
    assert torch.equal(gradient[:tokens], expected)
    assert not out[tokens:].any()
    assert not gradient[tokens:].any()


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's, of the rows that are NaN
@pytest.mark.parametrize("tile", [slice(0, 29), slice(29, 57), slice(57, 75)])
@pytest.mark.usefixtures("poisoned")
def test_what_is_not_finite_in_other_tiles_and_in_padding_reaches_nobody(tile):
    cu_seqlens = HostSequences(np.array((20, 9, 28, 16, 2)), DEVICE).cu_seqlens
    arguments = cu_seqlens, 28, *kernel_arguments(new_dropout(0.2, DEVICE))

    def found(qkv, upstream):
        out, log_sums = attention_forward(qkv, *arguments)
        return out[tile], attention_backward(upstream, qkv, out, log_sums, *arguments)[tile]

    clean = [random(80, 3, 1, 32).to(DEVICE), random(80, 1, 32).to(DEVICE)]
    spoilt = [torch.full_like(part, torch.nan) for part in clean]
    for part, original in zip(spoilt, clean, strict=True):
        part[tile] = original[tile]
    for rows, expected in zip(found(*spoilt), found(*clean), strict=True):
        assert expected.isfinite().all()
        assert torch.equal(rows, expected)


@pytest.mark.usefixtures("poisoned")
def test_first_tokens_of_empty_sequences_and_rows_after_the_last_give_zeros():
    lengths, padding = (3, 17, 5), 70
    exact = HostSequences(np.array(lengths), DEVICE).cu_seqlens
    repeated = torch.cat([exact, exact[-1:], exact[-1:]])
    q, kv = random(5, 2, 32).to(DEVICE), random(sum(lengths) + padding, 2, 2, 32).to(DEVICE)
    arguments = kernel_arguments(new_dropout(0.2, DEVICE))
    out, *saved = first_token_forward(q, kv, repeated, *arguments)
    d_q, d_kv = first_token_backward(torch.ones_like(q), q, kv, *saved, repeated, *arguments)
    assert not out[3:].any()
    assert not d_q[3:].any()
    assert not d_kv[sum(lengths) :].any()
    assert d_kv[: sum(lengths)].isfinite().all()


@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device: the interpreter runs one program after the other")
@pytest.mark.cuda
def test_many_sequences_twice_are_bitwise_equal():
    lengths = np.random.default_rng(1).integers(1, 200, 300)
    check(attention_case(lengths.tolist(), 12, 64, torch.bfloat16, DEVICE, rate=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [SHORT, (66, 7)])
def test_torch_compile_takes_the_ops_whole(lengths):
    sequences, dropout = HostSequences(np.array(lengths), DEVICE), new_dropout(0.2, DEVICE)
    qkv = random(sum(lengths), 3, 2, 32).to(DEVICE).requires_grad_()

    def function(qkv):
        first = qkv[sequences.first, 0]
        return attention(qkv, sequences, dropout).sum() + first_token_attention(first, qkv[:, 1:], sequences).sum()

    with using_kernels("triton"):
        (expected,) = torch.autograd.grad(function(qkv), qkv)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        (found,) = torch.autograd.grad(compiled(qkv), qkv)
    assert torch.equal(found, expected)
