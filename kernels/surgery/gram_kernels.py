"""The Triton kernels of the Gram matrix of flat gradients, and what launches them: see `kernels.surgery.gram`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import launcher
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.surgery.pair_products_kernels import (
    ROWS,
    add_products,
    columns_at_once,
    multiplies_tiles,
    no_products,
    store_products,
    store_tile,
    tile_columns,
    tile_products,
)

_SPANS = 64  # spans read at once when the spans' products are added up


@triton.jit
def _gram_products_kernel(
    gradients, touched, spans, partials, stride, chunks, TASKS: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr
):
    """The products of all pairs of tasks over one span of chunks.

    gradients: [TASKS, P] in fp32, fp16 or bf16.
    touched: uint8 [TASKS, chunks], 0 where a chunk holds zeros only and is not read.
    spans: int32 [spans, 2], the first chunk of each and the one after its last.
    partials: fp32 [spans, TASKS, TASKS], written.
    stride, chunks: int, elements from one task to the next in gradients and in touched.
    """
    span = tl.program_id(0)
    start = tl.load(spans + 2 * span).to(tl.int64) * CHUNK
    stop = tl.load(spans + 2 * span + 1).to(tl.int64) * CHUNK
    column = tl.arange(0, COLUMNS)
    totals = no_products(TASKS, COLUMNS)
    for first in range(start, stop, COLUMNS):
        values = ()
        for task in tl.static_range(TASKS):
            # Of a chunk that holds zeros only, no column is read.
            count = tl.where(tl.load(touched + task * chunks + first // CHUNK) != 0, COLUMNS, 0)
            value = tl.load(gradients + task * stride.to(tl.int64) + first + column, mask=column < count, other=0.0)
            values = values + (value.to(tl.float32),)
        totals = add_products(totals, values, TASKS)
    store_products(totals, partials + span * TASKS * TASKS, 1, TASKS)


@triton.jit
def _gram_tiles_kernel(
    gradients,
    touched,
    spans,
    partials,
    stride,
    chunks,
    TASKS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The same of many tasks in 16 bits, as products of tiles.

    gradients: [TASKS, P] in fp16 or bf16.
    touched: uint8 [TASKS, chunks], 0 where a chunk holds zeros only and is not read.
    spans: int32 [spans, 2], the first chunk of each and the one after its last.
    partials: fp32 [spans, TASKS, TASKS], written.
    stride, chunks: int, elements from one task to the next in gradients and in touched.
    """
    span = tl.program_id(0)
    start = tl.load(spans + 2 * span).to(tl.int64) * CHUNK
    stop = tl.load(spans + 2 * span + 1).to(tl.int64) * CHUNK
    task, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    own = gradients + (task * stride.to(tl.int64))[:, None] + column[None, :]
    totals = tl.zeros([ROWS, ROWS], tl.float32)
    for first in range(start, stop, COLUMNS):
        # Of a chunk that holds zeros only, no column is read.
        flags = tl.load(touched + task * chunks + first // CHUNK, mask=task < TASKS, other=0)
        values = tl.load(own + first, mask=(flags != 0)[:, None] & (column >= 0)[None, :], other=0.0)
        totals += tile_products(values, COLUMNS)
    store_tile(totals, partials + span * TASKS * TASKS, 1, TASKS, ROWS)


@triton.jit
def _gram_blocks_kernel(partials, span_offsets, gram, PAIRS: tl.constexpr, WIDTH: tl.constexpr, SPANS: tl.constexpr):
    """The Gram matrix of one block: its spans' products, added up in order.

    partials: fp32 [spans, PAIRS], what `_gram_products_kernel` has written.
    span_offsets: int32 [blocks + 1], which spans belong to which block.
    gram: fp64 [blocks, PAIRS], written.
    """
    block = tl.program_id(0)
    start, stop = tl.load(span_offsets + block), tl.load(span_offsets + block + 1)
    pair = tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], tl.float64)
    for first in range(start, stop, SPANS):
        span = first + tl.arange(0, SPANS)
        mask = (span < stop)[:, None] & (pair < PAIRS)[None, :]
        values = tl.load(partials + span[:, None] * PAIRS + pair[None, :], mask=mask, other=0.0)
        total += tl.sum(values.to(tl.float64), 0)
    tl.store(gram + block * PAIRS + pair, total, mask=pair < PAIRS)


@launcher(
    lambda gradients, touched, spans, span_offsets: torch.empty(
        len(span_offsets) - 1, len(gradients), len(gradients), dtype=torch.float64, device=gradients.device
    )
)
def gram_of_flat(gradients: Tensor, touched: Tensor, spans: Tensor, span_offsets: Tensor) -> Tensor:
    """fp64 [blocks, T, T] of `gradients` [T, P]; touched, spans, span_offsets: see `FlatParameters`."""
    tasks = gradients.shape[0]
    blocks = len(span_offsets) - 1
    partials = torch.empty(len(spans), tasks, tasks, dtype=torch.float32, device=gradients.device)
    gram = torch.empty(blocks, tasks, tasks, dtype=torch.float64, device=gradients.device)
    arguments = (gradients, touched, spans, partials, gradients.stride(0), touched.stride(0))
    if multiplies_tiles(gradients.dtype, tasks, gradients.device):
        _gram_tiles_kernel[(len(spans),)](
            *arguments, TASKS=tasks, ROWS=ROWS, CHUNK=CHUNK, COLUMNS=tile_columns(CHUNK), num_warps=4
        )
    else:
        _gram_products_kernel[(len(spans),)](
            *arguments, TASKS=tasks, CHUNK=CHUNK, COLUMNS=columns_at_once(tasks, CHUNK), num_warps=4
        )
    pairs = tasks * tasks
    _gram_blocks_kernel[(blocks,)](
        partials, span_offsets, gram, PAIRS=pairs, WIDTH=triton.next_power_of_2(pairs), SPANS=_SPANS, num_warps=4
    )
    return gram
