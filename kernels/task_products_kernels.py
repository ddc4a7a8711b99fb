"""Products over each task's rows, `left[rows_t]^T @ right[rows_t]`: a linear layer's weight gradients, one a task.

A program owns one tile of one task's [m, n] and walks that task's rows, whose bounds it reads from device memory. Where
the tiles are too few to fill the device and the rows are many, the rows of each task are divided as well: each division
writes an fp32 partial product, and a second kernel adds these up in order. Neither uses atomics, so that the same call
twice gives the same bits.

2 * rows * m * n operations over all tasks together; reads rows * (m + n) elements and writes T * m * n. On an H200 (790
TFLOP/s in bf16, 4.3 TB/s), three tasks of 900 rows take at least
    m = n = 384    1.0 us of products, 1.2 us of bytes (bf16 gradients)
    m = n = 768    4.0 us, 2.8 us
    m = 3072, n = 768    16 us, 8.1 us
A division into s parts adds 8 * s * T * m * n bytes, which the L2 cache holds at the sizes where it is worthwhile.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from concord.kernels.dispatch import architecture, for_architecture, launcher


class _Tiles(NamedTuple):
    """What a program owns ([m, n]) and reads at once (rows), and how it is run."""

    m: int
    n: int
    rows: int
    warps: int
    stages: int


# Large and small tiles, by architecture: the capability's major number, or "hip". Compiled ahead of time for each of
# them without spills and within its shared memory, of which three stages of large tiles leave room for a second
# program; none was timed yet. On sm_90 a program has four warps, which multiply as one group: with eight, Triton 3.6's
# assembler has the products of some variants wait for one another.
_HALF_TILES = {
    "hip": (_Tiles(128, 128, 32, 8, 2), _Tiles(64, 64, 64, 4, 2)),
    8: (_Tiles(128, 128, 32, 8, 4), _Tiles(64, 64, 64, 4, 4)),
    9: (_Tiles(128, 128, 64, 4, 3), _Tiles(64, 64, 64, 4, 4)),
    10: (_Tiles(128, 128, 64, 8, 3), _Tiles(64, 64, 64, 4, 4)),
}
# fp32 is multiplied as such, on CUDA without matrix instructions.
_SINGLE_TILES = (_Tiles(128, 128, 16, 8, 3), _Tiles(64, 64, 32, 4, 3))
_MULTIPROCESSORS = {"hip": 304, 8: 108, 9: 132, 10: 148}
_DIVISION = 512  # the fewest rows (on average) that are worth a division, whose product is written and read again
_DIVISIONS = 16
_ADDED = 1024  # elements that a program of the second kernel adds up

# Architecture -> the rows a task from which on torch's grouped_mm is taken. It is empty, since neither way was timed on
# a GPU yet: until then the kernel here is taken everywhere.
_GROUPED_FROM: dict[str | int, int] = {}


def product_choice(dtype: torch.dtype, gradient_dtype: torch.dtype, rows: int, tasks: int, device: torch.device) -> str:
    """Which implementation multiplies `rows` rows of `tasks` tasks: "triton" or "grouped" (bf16 throughout only)."""
    if dtype != torch.bfloat16 or gradient_dtype != torch.bfloat16 or device.type != "cuda":
        return "triton"
    least = _GROUPED_FROM.get(architecture(device))
    return "triton" if least is None or rows < least * tasks else "grouped"


def grouped_products(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """The same products by torch's grouped_mm: fresh [T, m, n] in the inputs' dtype (bf16), to be copied from there."""
    return functional.grouped_mm(left.t(), right, offs=offsets[1:])


def _plan(
    m: int, n: int, tasks: int, rows: int, aligned: bool, dtype: torch.dtype, device: torch.device
) -> tuple[_Tiles, int]:
    """Tiles and divisions, from what the host knows: the largest tiles that fill the device, else the smallest."""
    sizes = _SINGLE_TILES if dtype == torch.float32 else for_architecture(_HALF_TILES, device)
    if not aligned:
        sizes = sizes[1:]  # read element by element, large tiles would spill
    aim = for_architecture(_MULTIPROCESSORS, device)
    for tiles in sizes:
        programs = triton.cdiv(m, tiles.m) * triton.cdiv(n, tiles.n) * tasks
        divisions = min(triton.cdiv(aim, programs), max(1, rows // (tasks * _DIVISION)), _DIVISIONS)
        if programs * divisions * 4 >= aim * 3:
            break
    return tiles, divisions


@triton.jit
def _task_products_kernel(
    left,
    right,
    target,
    offsets,
    m,
    n,
    left_columns,
    right_columns,
    left_stride,
    right_stride,
    task_stride,
    division_stride,
    DIVISIONS: tl.constexpr,
    ADD: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One tile of one task's product, or of one division of its rows.

    left: [rows, left_columns] in fp32, fp16 or bf16.
    right: [rows, right_columns] in the dtype of left.
    target: [tasks, m, n] in fp32, fp16 or bf16, or fp32 [divisions, tasks, m, n] where DIVISIONS > 1; written.
    offsets: int32 [tasks + 1], where each task's rows begin.
    m, n: int, the columns of left and of right that are used.
    left_columns, right_columns, left_stride, right_stride: int, the columns of each, and elements from row to row.
    task_stride, division_stride: int, elements of target from one task, or division, to the next.
    """
    task, division = tl.program_id(1), tl.program_id(2)
    tiles = tl.cdiv(n, TILE_N)  # neighbouring programs read the same columns of `left`
    i = tl.program_id(0) // tiles * TILE_M + tl.arange(0, TILE_M)
    j = tl.program_id(0) % tiles * TILE_N + tl.arange(0, TILE_N)
    start, stop = tl.load(offsets + task), tl.load(offsets + task + 1)
    if DIVISIONS > 1:
        each = tl.cdiv(tl.cdiv(stop - start, ROWS), DIVISIONS) * ROWS
        start = tl.minimum(start + division * each, stop)
        stop = tl.minimum(start + each, stop)
    row = tl.arange(0, ROWS)
    # `left` is transposed by its pointers: with tl.trans, only one operand would be fetched ahead before sm_90.
    left_at = left + start.to(tl.int64) * left_stride + i[:, None] + row[None, :] * left_stride
    right_at = right + start.to(tl.int64) * right_stride + row[:, None] * right_stride + j[None, :]
    inside_left, inside_right = (i < left_columns)[:, None], (j < right_columns)[None, :]
    total = tl.zeros([TILE_M, TILE_N], tl.float32)
    for first in range(start, stop, ROWS):
        owned = first + row < stop
        a = tl.load(left_at, mask=owned[None, :] & inside_left, other=0.0)
        b = tl.load(right_at, mask=owned[:, None] & inside_right, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
        left_at += ROWS * left_stride
        right_at += ROWS * right_stride
    # In int64: T * P may exceed 2^31.
    base = target + task.to(tl.int64) * task_stride + division.to(tl.int64) * division_stride
    at = base + i.to(tl.int64)[:, None] * n + j[None, :]
    valid = (i < m)[:, None] & (j < n)[None, :]
    if ADD:
        total += tl.load(at, mask=valid, other=0.0).to(tl.float32)
    tl.store(at, total, mask=valid)


@triton.jit
def _add_task_products_kernel(
    partials, gradients, size, task_stride, division_stride, divisions, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    """The divisions of one task's product, added up in order; BLOCK elements.

    partials: fp32 [divisions, tasks, size], the divisions' products.
    gradients: [tasks, size] in fp32, fp16 or bf16, written.
    size, divisions: int; size: the elements of one task's product.
    task_stride, division_stride: int, elements from one task to the next in gradients, from a division in partials.
    """
    task = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = at < size
    total = tl.zeros([BLOCK], tl.float32)
    partial = partials + task * size + at
    for _ in range(divisions):
        total += tl.load(partial, mask=valid, other=0.0)
        partial += division_stride
    target = gradients + task * task_stride + at
    if ADD:
        total += tl.load(target, mask=valid, other=0.0).to(tl.float32)
    tl.store(target, total, mask=valid)


def _rowwise(tensor: Tensor) -> Tensor:
    """`tensor`, copied where the elements of a row are not neighbours."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _aligned(tensor: Tensor) -> bool:
    """Whether every row starts and ends where wide loads may."""
    return tensor.stride(0) % 16 == 0 and tensor.shape[1] % 16 == 0 and tensor.data_ptr() % 16 == 0


@launcher(lambda *arguments: None, mutates=("gradients",))
def task_products(
    left: Tensor, right: Tensor, gradients: Tensor, offsets: Tensor, add: bool, first: int = 0, last: int | None = None
) -> None:
    """Write `left[rows_t]^T @ right[rows_t]` to `gradients[t, first:last]` for every task t, or add it.

    left: [rows, m or more], right: [rows, n or more], both of one dtype (fp32, fp16, bf16); columns from m and n on
    are padding that is not used; rows of multiples of 16 elements are read fastest; gradients: [T, m or more, n] in
    fp32, fp16 or bf16, of which first:last are m rows, each task's contiguous; offsets: int32 [T + 1] on the device,
    task t owns rows offsets[t] to offsets[t + 1]; the product of a task without rows is zero; rows after offsets[T] are
    not read; add: to what stands there, instead of overwriting it. Sums in fp32. A ValueError where dtypes differ,
    shapes do not fit or a task's gradient is not contiguous.
    """
    gradients = gradients[:, first:last]
    tasks, m, n = gradients.shape
    rows = len(left)
    if left.dtype != right.dtype or len(right) != rows:
        raise ValueError(f"left {left.dtype} with {rows} rows, right {right.dtype} with {len(right)}: must be equal")
    if left.shape[1] < m or right.shape[1] < n or len(offsets) != tasks + 1:
        raise ValueError(
            f"left {tuple(left.shape)}, right {tuple(right.shape)} and {len(offsets)} offsets do not fit gradients "
            f"{tuple(gradients.shape)}"
        )
    if gradients.stride(2) != 1 or gradients.stride(1) != n:
        raise ValueError(f"each task's gradient must be contiguous, its strides are {gradients.stride()[1:]}")
    left, right = _rowwise(left), _rowwise(right)
    if product_choice(left.dtype, gradients.dtype, rows, tasks, left.device) == "grouped":
        products = grouped_products(left[:, :m], right[:, :n], offsets)
        if add:
            gradients.add_(products)
        else:
            gradients.copy_(products)
        return
    aligned = _aligned(left) and _aligned(right)
    tiles, divisions = _plan(m, n, tasks, rows, aligned, left.dtype, left.device)
    target, task_stride = gradients, gradients.stride(0)
    if divisions > 1:
        target = torch.empty(divisions, tasks, m, n, dtype=torch.float32, device=left.device)
        task_stride = m * n
    _task_products_kernel[(triton.cdiv(m, tiles.m) * triton.cdiv(n, tiles.n), tasks, divisions)](
        left,
        right,
        target,
        offsets,
        m,
        n,
        left.shape[1],
        right.shape[1],
        left.stride(0),
        right.stride(0),
        task_stride,
        tasks * m * n,
        DIVISIONS=divisions,
        ADD=add and divisions == 1,
        TILE_M=tiles.m,
        TILE_N=tiles.n,
        ROWS=tiles.rows,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    if divisions > 1:
        _add_task_products_kernel[(triton.cdiv(m * n, _ADDED), tasks)](
            target, gradients, m * n, gradients.stride(0), tasks * m * n, divisions, ADD=add, BLOCK=_ADDED
        )
