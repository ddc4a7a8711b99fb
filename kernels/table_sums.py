"""Gradients of embedding tables: the rows of a gradient added up by the index that they were read from.

Order-dependent atomics would make two runs differ. Instead all (task, index) pairs are sorted, which makes a run of
each, and a program adds up a piece of a run: up to 32 rows. A run of one piece, as most are, is written at once; the
pieces of a longer one ([CLS], a segment, a stop word) go to slots, which a second kernel adds in order. Full pieces
start at least 32 places apart, and so do last pieces of long runs, so place // 32 numbers the slots of both kinds.

Reads tokens * n elements a table and writes the rows that occur: at bf16 and 4.3 TB/s, 1.1 us for 4,096 tokens of 384
in three tables, and before that the zeroes of the whole table where micro-batches do not accumulate.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import launcher
from kernels.task_sums import task_span

_PIECE = 32
_KEYS = 256  # tokens a program, when keys are made


@triton.jit(do_not_specialize=["tokens"])
def _keys_kernel(ids, positions, segments, keys, offsets, tasks, tokens, words, places, kinds, BLOCK: tl.constexpr):
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = token < tokens
    owner = tl.zeros([BLOCK], tl.int32)
    for task in range(1, tasks):
        start, _ = task_span(offsets, task, tasks, tokens)
        owner += (token >= start).to(tl.int32)
    # Keys run through all tasks of the first table, then of the second, then of the third.
    key = owner * words + tl.load(ids + token, mask=inside, other=0)
    tl.store(keys + token, key, mask=inside)
    key = tasks * words + owner * places + tl.load(positions + token, mask=inside, other=0)
    tl.store(keys + tokens + token, key, mask=inside)
    key = tasks * (words + places) + owner * kinds + tl.load(segments + token, mask=inside, other=0)
    tl.store(keys + 2 * tokens + token, key, mask=inside)


@triton.jit
def _target(
    key,
    word_gradients,
    position_gradients,
    segment_gradients,
    word_stride,
    position_stride,
    segment_stride,
    tasks,
    words,
    places,
    kinds,
    columns,
):
    """Where the gradient row of `key` lies."""
    first_position, first_segment = tasks * words, tasks * (words + places)
    target = word_gradients + (key // words).to(tl.int64) * word_stride + (key % words).to(tl.int64) * columns
    if key >= first_segment:
        rest = key - first_segment
        target = (
            segment_gradients + (rest // kinds).to(tl.int64) * segment_stride + (rest % kinds).to(tl.int64) * columns
        )
    elif key >= first_position:
        rest = key - first_position
        target = (
            position_gradients
            + (rest // places).to(tl.int64) * position_stride
            + (rest % places).to(tl.int64) * columns
        )
    return target


@triton.jit(do_not_specialize=["tokens"])
def _pieces_kernel(
    values,
    keys,
    order,
    starts,
    stops,
    slots,
    word_gradients,
    position_gradients,
    segment_gradients,
    word_stride,
    position_stride,
    segment_stride,
    tasks,
    tokens,
    words,
    places,
    kinds,
    columns,
    SECOND: tl.constexpr,
    ADD: tl.constexpr,
    PIECE: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    place = tl.program_id(0)
    start, stop = tl.load(starts + place), tl.load(stops + place)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    total = tl.zeros([STEP, COLUMNS], tl.float32)
    is_long = stop - start > PIECE
    if SECOND:
        works = (place == start) & is_long
        if works:
            for first in range(start, stop, PIECE * STEP):
                at = first + tl.arange(0, STEP) * PIECE
                slot = at // PIECE * 2 + (at + PIECE <= stop).to(tl.int32)
                where = slot.to(tl.int64)[:, None] * columns + column[None, :]
                total += tl.load(slots + where, mask=(at < stop)[:, None] & inside[None, :], other=0.0)
    else:
        works = (place - start) % PIECE == 0
        if works:
            last = tl.minimum(place + PIECE, stop)
            for first in range(place, last, STEP):
                at = first + tl.arange(0, STEP)
                row = tl.load(order + at, mask=at < last, other=0) % tokens
                where = row.to(tl.int64)[:, None] * columns + column[None, :]
                mask = (at < last)[:, None] & inside[None, :]
                total += tl.load(values + where, mask=mask, other=0.0).to(tl.float32)
    result = tl.sum(total, 0)
    if works:
        if is_long and not SECOND:
            slot = place // PIECE * 2 + (place + PIECE <= stop).to(tl.int32)
            tl.store(slots + slot.to(tl.int64) * columns + column, result, mask=inside)
        else:
            target = column + _target(
                tl.load(keys + place),
                word_gradients,
                position_gradients,
                segment_gradients,
                word_stride,
                position_stride,
                segment_stride,
                tasks,
                words,
                places,
                kinds,
                columns,
            )
            if ADD:
                result += tl.load(target, mask=inside, other=0.0).to(tl.float32)
            tl.store(target, result, mask=inside)


@launcher(
    lambda *arguments: None,
    mutates=("word_gradients", "position_gradients", "segment_gradients"),
)
def table_sums(
    values: Tensor,
    ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    word_gradients: Tensor,
    position_gradients: Tensor,
    segment_gradients: Tensor,
    offsets: Tensor,
    add: bool,
    add_words: bool,
) -> None:
    """Add up the rows of `values` [tokens, n] into the tables' task gradients, by task and index.

    ids, positions, segments: int32 [tokens], the rows of the three tables that each token read; gradients: [T, size, n]
    of one dtype, each task's table contiguous; offsets: int32 [T + 1]; add: to what stands there; otherwise the rows
    that do not occur become zero; add_words: to what stands in the first table, whatever holds for the others.
    """
    tokens, columns = values.shape
    tasks = len(offsets) - 1
    tables = (word_gradients, position_gradients, segment_gradients)
    if not add:
        for table in tables[1 if add_words else 0 :]:
            table.zero_()
    sizes = [table.shape[1] for table in tables]
    keys = torch.empty(3 * tokens, dtype=torch.int32, device=values.device)
    _keys_kernel[(triton.cdiv(tokens, _KEYS),)](
        ids.contiguous(),
        positions.contiguous(),
        segments.contiguous(),
        keys,
        offsets,
        tasks,
        tokens,
        *sizes,
        BLOCK=_KEYS,
    )
    keys, order = torch.sort(keys, stable=True)
    starts = torch.searchsorted(keys, keys, out_int32=True)
    stops = torch.searchsorted(keys, keys, out_int32=True, right=True)
    slots = torch.empty(2 * triton.cdiv(3 * tokens, _PIECE), columns, dtype=torch.float32, device=values.device)
    width = triton.next_power_of_2(columns)
    for second in (False, True):
        _pieces_kernel[(3 * tokens,)](
            values.contiguous(),
            keys,
            order,
            starts,
            stops,
            slots,
            *tables,
            *(table.stride(0) for table in tables),
            tasks,
            tokens,
            *sizes,
            columns,
            SECOND=second,
            ADD=add or add_words,  # the other tables are zero, so that adding to them is as good
            PIECE=_PIECE,
            STEP=max(1, 2048 // width),
            COLUMNS=width,
            num_warps=4,
        )
