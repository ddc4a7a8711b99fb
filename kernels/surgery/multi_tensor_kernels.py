"""The Triton kernels on gradients that lie apart, and what launches them: see `kernels.surgery.multi_tensor`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

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

_COLUMNS = 1024  # elements that a program reads at once
_PARTIALS = 512  # products read at once when the spans' products are added up
_ELEMENTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _row(addresses, TASKS: tl.constexpr):
    """The addresses of a parameter's gradients, and whether each of them is a multiple of 16 bytes."""
    found = ()
    aligned = True
    for task in tl.static_range(TASKS):
        address = tl.load(addresses + task)
        found = found + (address,)
        aligned = aligned & (address % 16 == 0)
    return found, aligned


@triton.jit
def _read(address, first, stop, column, ELEMENT: tl.constexpr, WHOLE: tl.constexpr):
    """Elements first + column of the gradient at `address`, in fp32; zeros where there is none."""
    pointers = address.to(tl.pointer_type(ELEMENT)) + first + column
    if WHOLE:
        # Made a tile of by a comparison that is true for every column: in some Tritons a scalar masks no tile.
        values = tl.load(tl.multiple_of(pointers, 16), mask=tl.where(address != 0, column >= 0, column < 0), other=0.0)
    else:
        # The columns that there are, and none of a gradient that there is not.
        values = tl.load(pointers, mask=column < tl.where(address != 0, stop - first, 0), other=0.0)
    return values.to(tl.float32)


@triton.jit
def _span_products(
    own,
    partials,
    start,
    stop,
    count,
    ELEMENT: tl.constexpr,
    TASKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """One span's products, written to `partials` at a distance of `count` from pair to pair."""
    column = tl.arange(0, COLUMNS)
    totals = no_products(TASKS, COLUMNS)
    for first in range(start, stop, COLUMNS):
        values = ()
        for task in tl.static_range(TASKS):
            values = values + (_read(own[task], first, stop, column, ELEMENT, WHOLE),)
        totals = add_products(totals, values, TASKS)
    store_products(totals, partials, count, TASKS)


@triton.jit
def _tensor_products_kernel(
    addresses, spans, partials, count, ELEMENT: tl.constexpr, TASKS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The products of all pairs of tasks over one span of a parameter.

    addresses: int64 [parameters, TASKS], where each gradient of dtype ELEMENT lies, 0 where there is none.
    spans: int64 [count, 3], a parameter, its first element of the span, and the one after the last.
    partials: fp32 [TASKS, TASKS, count], written.
    count: int, of the spans.
    """
    span = tl.program_id(0)
    parameter, start, stop = tl.load(spans + 3 * span), tl.load(spans + 3 * span + 1), tl.load(spans + 3 * span + 2)
    own, aligned = _row(addresses + parameter * TASKS, TASKS)
    if aligned & ((stop - start) % COLUMNS == 0):
        _span_products(own, partials + span, start, stop, count, ELEMENT, TASKS, COLUMNS, WHOLE=True)
    else:
        _span_products(own, partials + span, start, stop, count, ELEMENT, TASKS, COLUMNS, WHOLE=False)


@triton.jit
def _tensor_tiles_kernel(
    addresses,
    spans,
    partials,
    count,
    ELEMENT: tl.constexpr,
    TASKS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`_tensor_products_kernel` of many tasks in 16 bits, as products of tiles.

    addresses: int64 [parameters, TASKS], where each gradient of dtype ELEMENT lies, 0 where there is none.
    spans: int64 [count, 3], a parameter, its first element of the span, and the one after the last.
    partials: fp32 [TASKS, TASKS, count], written.
    count: int, of the spans.
    """
    span = tl.program_id(0)
    parameter, start, stop = tl.load(spans + 3 * span), tl.load(spans + 3 * span + 1), tl.load(spans + 3 * span + 2)
    task, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    address = tl.load(addresses + parameter * TASKS + task, mask=task < TASKS, other=0)
    whole = (tl.sum(address % 16, 0) == 0) & ((stop - start) % COLUMNS == 0)
    own = address.to(tl.pointer_type(ELEMENT))[:, None] + column[None, :]
    present = (address != 0)[:, None] & (column >= 0)[None, :]
    totals = tl.zeros([ROWS, ROWS], tl.float32)
    for first in range(start, stop, COLUMNS):
        # Only the loads are in branches: of two products with sides this short, sm_90 would make wrong numbers.
        if whole:
            values = tl.load(tl.multiple_of(own + first, (16, 16)), mask=present, other=0.0)
        else:
            values = tl.load(own + first, mask=present & (first + column < stop)[None, :], other=0.0)
        totals += tile_products(values, COLUMNS)
    store_tile(totals, partials + span, count, TASKS, ROWS)


@triton.jit
def _tensor_pairs_kernel(partials, gram, count, PARTIALS: tl.constexpr):
    """The Gram matrix's entry for one pair of tasks: its spans' products, added up in order.

    partials: fp32 [pairs, count], what `_tensor_products_kernel` has written.
    gram: fp64 [pairs], written.
    count: int, of the spans.
    """
    pair = tl.program_id(0)
    total = tl.zeros([PARTIALS], tl.float64)
    for first in range(0, count, PARTIALS):
        span = first + tl.arange(0, PARTIALS)
        total += tl.load(partials + pair.to(tl.int64) * count + span, mask=span < count, other=0.0).to(tl.float64)
    tl.store(gram + pair, tl.sum(total, 0))


@triton.jit
def _span_combination(
    own,
    coefficients,
    start,
    stop,
    ELEMENT: tl.constexpr,
    TASKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    factors = ()
    for task in tl.static_range(TASKS):
        # A task without a gradient adds nothing, even where its coefficient is not finite.
        factor = tl.where(own[task] != 0, tl.load(coefficients + task), 0.0)
        factors = factors + (factor.to(tl.float32),)
    for first in range(start, stop, COLUMNS):
        total = tl.zeros([COLUMNS], tl.float32)
        for task in tl.static_range(TASKS):
            total += factors[task] * _read(own[task], first, stop, column, ELEMENT, WHOLE)
        pointers = own[TASKS].to(tl.pointer_type(ELEMENT)) + first + column
        if WHOLE:
            tl.store(tl.multiple_of(pointers, 16), total)
        else:
            tl.store(pointers, total, mask=first + column < stop)


@triton.jit
def _tensor_combine_kernel(
    addresses, spans, coefficients, ELEMENT: tl.constexpr, TASKS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The merged gradient in one span of a parameter.

    addresses: int64 [parameters, TASKS + 1], where each gradient of dtype ELEMENT lies, or 0, and the result.
    spans: int64 [spans, 3], a parameter, its first element of the span, and the one after the last.
    coefficients: fp32 or fp64 [parameters, TASKS], what the gradients are multiplied by.
    """
    span = tl.program_id(0)
    parameter, start, stop = tl.load(spans + 3 * span), tl.load(spans + 3 * span + 1), tl.load(spans + 3 * span + 2)
    # The last address of a row is that of the result.
    own, aligned = _row(addresses + parameter * (TASKS + 1), TASKS + 1)
    factors = coefficients + parameter * TASKS
    if aligned & ((stop - start) % COLUMNS == 0):
        _span_combination(own, factors, start, stop, ELEMENT, TASKS, COLUMNS, WHOLE=True)
    else:
        _span_combination(own, factors, start, stop, ELEMENT, TASKS, COLUMNS, WHOLE=False)


def gram_of_spans(addresses: Tensor, spans: Tensor, dtype: torch.dtype) -> Tensor:
    """The Gram matrix over the parameters that `spans` cover, fp64 [T, T].

    addresses: int64 [P, T], where each gradient of `dtype` lies, 0 where there is none; spans: int64 [spans, 3], a
    parameter, its first element of the span, and the one after the last.
    """
    count, tasks = len(spans), addresses.shape[1]
    partials = torch.empty(tasks * tasks, count, dtype=torch.float32, device=addresses.device)
    gram = torch.empty(tasks, tasks, dtype=torch.float64, device=addresses.device)
    with torch.cuda.device_of(gram):
        arguments, constants = (addresses, spans, partials, count), {"ELEMENT": _ELEMENTS[dtype], "TASKS": tasks}
        if multiplies_tiles(dtype, tasks, addresses.device):
            _tensor_tiles_kernel[(count,)](
                *arguments, **constants, ROWS=ROWS, COLUMNS=tile_columns(_COLUMNS), num_warps=4
            )
        else:
            _tensor_products_kernel[(count,)](
                *arguments, **constants, COLUMNS=columns_at_once(tasks, _COLUMNS), num_warps=4
            )
        _tensor_pairs_kernel[(tasks * tasks,)](partials, gram, count, PARTIALS=_PARTIALS, num_warps=4)
    return gram


def combine_spans(addresses: Tensor, spans: Tensor, coefficients: Tensor, dtype: torch.dtype) -> None:
    """Write the merged gradients of the parameters that `spans` cover.

    addresses: int64 [P, T + 1], where each gradient of `dtype` lies, 0 where there is none, and in the last column
    where the merged one is to lie; spans: as in `gram_of_spans`; coefficients: fp32 or fp64 [P, T], contiguous.
    """
    tasks = coefficients.shape[1]
    with torch.cuda.device_of(coefficients):
        _tensor_combine_kernel[(len(spans),)](
            addresses,
            spans,
            coefficients,
            ELEMENT=_ELEMENTS[dtype],
            TASKS=tasks,
            COLUMNS=_COLUMNS if tasks <= 4 else _COLUMNS // 2,
            num_warps=4,
        )
