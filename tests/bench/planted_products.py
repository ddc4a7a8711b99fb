"""Kernels with products of known shapes, compiled for sm_90 and judged: python -m tests.bench.planted_products.

For a process of its own, where kernels are not interpreted. Prints a line a kernel: its name, and its faults as JSON.
"""

import json

import torch
import triton
import triton.language as tl

from bench.resources.compiled import compiling, judge
from bench.resources.steps import dtype_text
from bench.resources.targets import TARGETS


@triton.jit
def _tile(base, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return base + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def one_product(x, y, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out [ROWS, ROWS] = x y^T of two [ROWS, COLUMNS]."""
    a, b = tl.load(_tile(x, ROWS, COLUMNS)), tl.load(_tile(y, ROWS, COLUMNS))
    tl.store(_tile(out, ROWS, ROWS), tl.dot(a, tl.trans(b), input_precision="ieee"))


@triton.jit
def two_products(x, y, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out [ROWS, COLUMNS] = (x y^T) y."""
    a, b = tl.load(_tile(x, ROWS, COLUMNS)), tl.load(_tile(y, ROWS, COLUMNS))
    scores = tl.dot(a, tl.trans(b), input_precision="ieee").to(b.dtype)
    tl.store(_tile(out, ROWS, COLUMNS), tl.dot(scores, b, input_precision="ieee"))


@triton.jit
def _sum_of_products(x, y, out, steps, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNROLLED: tl.constexpr):
    total = tl.zeros([ROWS, ROWS], tl.float32)
    if UNROLLED:
        for step in tl.static_range(2):
            a, b = tl.load(_tile(x, ROWS, COLUMNS) + step), tl.load(_tile(y, ROWS, COLUMNS) + step)
            total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    else:
        for step in range(steps):
            a, b = tl.load(_tile(x, ROWS, COLUMNS) + step), tl.load(_tile(y, ROWS, COLUMNS) + step)
            total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    tl.store(_tile(out, ROWS, ROWS), total)


@triton.jit
def product_in_a_loop(x, y, out, steps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sum of `steps` products, as many as the kernel is told."""
    _sum_of_products(x, y, out, steps, ROWS, COLUMNS, False)


@triton.jit
def unrolled_product(x, y, out, steps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sum of two products, written as a loop that is unrolled."""
    _sum_of_products(x, y, out, steps, ROWS, COLUMNS, True)


@triton.jit
def gelu_planted(x, y, apart: tl.constexpr):
    """Called as one of those that read and write whole vectors, of which it does neither where elements lie apart."""
    at = tl.arange(0, 1024) * apart
    tl.store(y + at, tl.load(x + at))


def _widths() -> None:
    target = TARGETS["sm_90"]

    def found(function, compiled):
        name = f"{function.__name__} {apart}"
        print(name, json.dumps(judge(target, function.__name__, "a test", dtype, compiled).faults), sep="\t")

    dtype = torch.bfloat16
    with compiling(target, found), torch.device("meta"):
        for apart in (1, 3):
            gelu_planted[(1,)](torch.empty(4096, dtype=dtype), torch.empty(4096, dtype=dtype), apart=apart)


def _verdicts(dtype: torch.dtype, *shapes: tuple[int, int]) -> None:
    target = TARGETS["sm_90"]

    def found(function, compiled):
        name = f"{function.__name__} {dtype_text(dtype)} {rows}x{columns}"
        print(name, json.dumps(judge(target, function.__name__, "a test", dtype, compiled).faults), sep="\t")

    with compiling(target, found), torch.device("meta"):
        for rows, columns in shapes:
            x, y = torch.empty(2, 64, 64, dtype=dtype)
            out = torch.empty(64, 64)
            one_product[(1,)](x, y, out, ROWS=rows, COLUMNS=columns)
            two_products[(1,)](x, y, out, ROWS=rows, COLUMNS=columns)
            product_in_a_loop[(1,)](x, y, out, 7, ROWS=rows, COLUMNS=columns, num_stages=3)
            unrolled_product[(1,)](x, y, out, 7, ROWS=rows, COLUMNS=columns)


if __name__ == "__main__":
    _verdicts(torch.bfloat16, (32, 32), (64, 32), (64, 64))
    _verdicts(torch.float32, (32, 32), (64, 32))
    _widths()
