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
from torch import Tensor
from torch.nn import functional

from concord.kernels.deposits import deposit
from concord.kernels.dispatch import uses_triton
from concord.kernels.layout.rows import TaskRows, require_rows, task_gradients_of, wide
from concord.kernels.linear import linear

IGNORED = -100  # the target of a row that does not count


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
        from concord.kernels.linear_cross_entropy_kernels import loss_and_gradients

        deposits = weight_gradients is not None or bias_gradients is not None
        offsets = require_rows(rows).offsets if deposits else None
        loss, *saved = loss_and_gradients(hidden, weight, bias, targets, offsets, IGNORED, gradients)
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
