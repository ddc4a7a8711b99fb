"""Linear layer + cross-entropy over a large vocabulary, whose logits never stand in memory all at once.

    loss = mean over rows with a target of: log(sum_v exp(z_v)) - z_target,  z = hidden @ weight^T + bias
    dz = softmax(z) - onehot(target), zero in rows without a target

The rows are taken in chunks of at most 64 MB of logits. A chunk is one matrix product, one kernel that puts dz in the
place of z, and the two products of the gradients: all within the forward, as dz depends on what comes after the loss by
one factor only (Hsu et al., Liger Kernel, 2024). The backward multiplies by that factor and by 1 / rows with a target;
dz itself stays free of both, which would carry it out of fp16's range.

6 * rows * vocab * n operations with gradients, 2 * rows * vocab * n without. The logits' bytes pass memory six times
(written and read by the first product and the kernel, read again within the L2 cache, written, read by two products
and the bias's sum); each chunk but the first reads and writes fp32 weight gradients, 8 * vocab * n bytes a task. On an
H200 (790 TFLOP/s in bf16, 4.3 TB/s), 2,048 rows of 768 and a vocabulary of 30,522 take at least 0.36 ms of products;
logits 0.17 ms, weight gradients of one task 0.07 ms. Whole logits with their gradient in fp32, as torch keeps them, are
0.5 GB.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from concord.kernels.deposits import deposit
from concord.kernels.dispatch import launcher, uses_triton
from concord.kernels.layout.rows import TaskRows, require_rows, task_gradients_of, wide
from concord.kernels.linear import linear
from concord.kernels.task_products import task_products
from concord.kernels.task_sums import one_task, task_sums

IGNORED = -100  # the target of a row that does not count
_CHUNK_BYTES = 64 << 20  # of logits; less would read and write the weight gradients more often
_CHUNK_ROWS = 64  # chunks are multiples of it, so that each starts at an aligned address
_ALIGNED = 64  # columns; rows of logits are padded to a multiple, which fast products and wide loads need
_BLOCK, _WARPS = 4096, 8  # of the vocabulary at once


@triton.jit
def _cross_entropy_kernel(
    logits,
    bias,
    targets,
    losses,
    vocab,
    stride,
    IGNORED: tl.constexpr,
    BIAS: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    target = tl.load(targets + row)
    base = logits + row.to(tl.int64) * stride
    column = tl.arange(0, BLOCK)
    if target == IGNORED:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for first in range(0, stride, BLOCK):
                zeros = tl.zeros([BLOCK], logits.dtype.element_ty)
                tl.store(base + first + column, zeros, mask=first + column < stride)
    else:
        # A target outside of the vocabulary makes the loss NaN; it must not read what lies there.
        known = (target >= 0) & (target < vocab)
        hit = tl.load(base + target, mask=known, other=float("nan")).to(tl.float32)
        if BIAS:
            hit += tl.load(bias + target, mask=known, other=0.0)
        # Loads and stores run to the aligned end of the row: a mask that ends elsewhere would make them narrow.
        top, total = float("-inf"), 0.0
        for first in range(0, stride, BLOCK):
            at = first + column
            z = tl.load(base + at, mask=at < stride, other=0.0).to(tl.float32)
            if BIAS:
                z += tl.load(bias + at, mask=at < stride, other=0.0)
            z = tl.where(at < vocab, z, float("-inf"))
            higher = tl.maximum(top, tl.max(z, 0))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
            top = higher
        log_sum = top + tl.log(total)
        tl.store(losses + row, log_sum - hit)
        if GRADIENT:
            for first in range(0, stride, BLOCK):
                at = first + column
                z = tl.load(base + at, mask=at < stride, other=0.0).to(tl.float32)
                if BIAS:
                    z += tl.load(bias + at, mask=at < stride, other=0.0)
                z = tl.where(at < vocab, z, float("-inf"))
                gradient = tl.exp(z - log_sum) - (at == target).to(tl.float32)
                tl.store(base + at, gradient.to(logits.dtype.element_ty), mask=at < stride)


def _chunk_rows(rows: int, row_bytes: int) -> int:
    """Rows a chunk: as even as possible, multiples of _CHUNK_ROWS, of at most _CHUNK_BYTES (or one such multiple)."""
    most = max(1, _CHUNK_BYTES // (row_bytes * _CHUNK_ROWS)) * _CHUNK_ROWS
    even = triton.cdiv(rows, max(1, triton.cdiv(rows, most)))
    return max(1, triton.cdiv(even, _CHUNK_ROWS)) * _CHUNK_ROWS


def _fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, offsets: Tensor | None, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tasks = 1 if offsets is None else len(offsets) - 1
    vocab, n = weight.shape
    shapes = [hidden.shape, (tasks, vocab, n), (tasks, vocab if bias is not None else 0)]
    if not gradients:
        shapes = [(0,)] * 3
    d_hidden = hidden.new_empty(shapes[0])
    d_weight, d_bias = (hidden.new_empty(shape, dtype=torch.float32) for shape in shapes[1:])
    scalars = [hidden.new_empty((), dtype=torch.float32) for _ in range(2)]
    return *scalars, d_hidden, d_weight, d_bias


@launcher(_fake)
def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, offsets: Tensor | None, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The mean loss, 1 / rows with a target, and the gradients of the sum of the losses.

    Arguments as those of `linear_cross_entropy`; offsets: int32 [T + 1], or None for a single task. Returns fp32
    scalars, then gradients like hidden, fp32 [T, vocab, n] and fp32 [T, vocab] (or [T, 0]), all empty unless asked for.
    """
    rows, device = len(hidden), hidden.device
    vocab = len(weight)
    if offsets is None:
        offsets = one_task(rows, device)
    tasks = len(offsets) - 1
    stride = triton.cdiv(vocab, _ALIGNED) * _ALIGNED
    padded_bias = None if bias is None else functional.pad(bias, (0, stride - vocab))
    targets = targets.contiguous()
    losses = torch.empty(rows, dtype=torch.float32, device=device)
    d_hidden = torch.empty_like(hidden) if gradients else hidden.new_empty(0)
    d_weight = torch.empty((tasks, *weight.shape) if gradients else 0, dtype=torch.float32, device=device)
    with_bias = gradients and bias is not None
    d_bias = torch.empty(tasks if gradients else 0, stride if with_bias else 0, dtype=torch.float32, device=device)
    if rows == 0:
        d_weight.zero_()
        d_bias.zero_()
    size = _chunk_rows(rows, stride * hidden.element_size())
    room = torch.empty(min(size, rows), stride, dtype=hidden.dtype, device=device)
    for first in range(0, rows, size):
        stop = min(first + size, rows)
        logits = room[: stop - first]
        torch.mm(hidden[first:stop], weight.t(), out=logits[:, :vocab])
        _cross_entropy_kernel[(stop - first,)](
            logits,
            padded_bias,
            targets[first:],
            losses[first:],
            vocab,
            stride,
            IGNORED=IGNORED,
            BIAS=bias is not None,
            GRADIENT=gradients,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
        if gradients:
            within = (offsets - first).clamp_(0, stop - first)
            torch.mm(logits[:, :vocab], weight, out=d_hidden[first:stop])
            task_products(logits, hidden[first:stop], d_weight, within, first > 0)
            if with_bias:
                task_sums(logits, d_bias, within, first > 0)
    inverse = 1 / (targets != IGNORED).sum().clamp_(min=1).float()
    return losses.sum() * inverse, inverse, d_hidden, d_weight, d_bias[:, :vocab].contiguous() if with_bias else d_bias


def _scaled(target: Tensor | None, gradients: Tensor, factor: Tensor, rows: TaskRows | None) -> Tensor | None:
    """Deposit `gradients` [T, ...] times `factor`, or return their sum where no task gradients are asked for."""
    if target is None:
        return (gradients[0] if len(gradients) == 1 else gradients.sum(0)) * factor
    for task in range(len(gradients)):
        deposit(target[task], gradients[task] * factor, require_rows(rows).accumulate)
    return None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weight_gradients: Tensor | None,
        bias_gradients: Tensor | None,
        rows: TaskRows | None,
        gradients: bool,
    ) -> Tensor:
        deposits = weight_gradients is not None or bias_gradients is not None
        offsets = require_rows(rows).offsets if deposits else None
        loss, *saved = _loss_and_gradients(hidden, weight, bias, targets, offsets, gradients)
        ctx.save_for_backward(*saved)
        ctx.weight_gradients, ctx.bias_gradients, ctx.rows = weight_gradients, bias_gradients, rows
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        inverse, d_hidden, d_weight, d_bias = ctx.saved_tensors
        factor = d_loss * inverse
        d_weight = _scaled(ctx.weight_gradients, d_weight, factor, ctx.rows)
        d_bias = _scaled(ctx.bias_gradients, d_bias, factor, ctx.rows) if ctx.needs_input_grad[2] else None
        # In fp32: the factor holds the loss scale, which need not fit in fp16.
        d_hidden = (d_hidden.float() * factor).to(d_hidden.dtype)
        return d_hidden, None if d_weight is None else d_weight.to(ctx.weight_dtype), d_bias, *[None] * 5


def _reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: TaskRows | None) -> Tensor:
    logits = linear(hidden, weight, bias, rows)
    logits = logits.to(wide(logits.dtype))
    total = functional.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: TaskRows | None = None
) -> Tensor:
    """Mean cross-entropy of `softmax(hidden @ weight^T + bias)` against `targets`: an fp32 scalar.

    hidden: [rows, n] in the compute dtype; weight: [vocab, n] in the same; bias: fp32 [vocab] or None; targets: int32
    or int64 [rows], each below vocab, or -100 for a row that does not count (as rows after the last task's must be);
    without any that counts, loss and gradients are 0; rows: the rows of each task, needed where the parameters have
    `task_gradients`: a ValueError otherwise. A target outside of the vocabulary makes the kernels' loss NaN and is an
    error of the reference.

    The parameters' task gradients are overwritten, or added to where `rows` accumulate. Where the embedding op holds
    the same weight, its backward comes later and has to add to what this one deposits.
    """
    if not uses_triton("linear_cross_entropy", hidden):
        return _reference(hidden, weight, bias, targets, rows)
    gradients = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    return _LinearCrossEntropy.apply(
        hidden, weight, bias, targets, task_gradients_of(weight), task_gradients_of(bias), rows, gradients
    )
