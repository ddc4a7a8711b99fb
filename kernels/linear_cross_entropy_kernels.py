"""Cross-entropy in chunks of rows: the Triton kernel and what launches it; see `kernels.linear_cross_entropy`."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from concord.kernels.dispatch import launcher
from concord.kernels.layout.rows import one_task
from concord.kernels.task_products_kernels import task_products
from concord.kernels.task_sums_kernels import task_sums

_CHUNK_BYTES = 64 << 20  # bytes of a chunk's logits; less would read and write the weight gradients more often
_CHUNK_ROWS = 64  # chunks are multiples of it, so that each starts at an aligned address
_ALIGNED = 64  # columns; rows of logits are padded to a multiple, which fast products and wide loads need
_BLOCK, _WARPS = 4096, 8  # words that a program reads at once, and its warps


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
    """The loss of one row and, where GRADIENT, softmax(z) - onehot(target) in the place of its logits.

    logits: [rows, stride] in the compute dtype, the first `vocab` columns of each row; overwritten where GRADIENT.
    bias: fp32 [stride], added to the logits; None without BIAS.
    targets: int32 or int64 [rows], the class of each row, or IGNORED.
    losses: fp32 [rows], written: 0 where the target is IGNORED, NaN where it lies outside of the vocabulary.
    vocab, stride: int, the classes, and elements from one row of logits to the next.
    """
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
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    offsets: Tensor | None,
    ignored: int,
    gradients: bool,
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
def loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    offsets: Tensor | None,
    ignored: int,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The mean loss, 1 / rows with a target, and the gradients of the sum of the losses.

    hidden, weight, bias, targets: as those of `linear_cross_entropy`; offsets: int32 [T + 1], or None for a single
    task; ignored: the target of a row that does not count; gradients: whether they are asked for. Returns fp32 scalars,
    then gradients like hidden, fp32 [T, vocab, n] and fp32 [T, vocab] (or [T, 0]), all empty unless asked for.
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
            IGNORED=ignored,
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
    inverse = 1 / (targets != ignored).sum().clamp_(min=1).float()
    return losses.sum() * inverse, inverse, d_hidden, d_weight, d_bias[:, :vocab].contiguous() if with_bias else d_bias
