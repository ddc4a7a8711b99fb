"""The Triton kernel of combine + AdamW, and what launches it: see `kernels.surgery.adamw` for the step."""

import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import launcher
from concord.kernels.layout.chunks import CHUNK


@triton.jit
def _combine_adamw_kernel(
    gradients,
    touched,
    coefficients,
    momentum,
    variance,
    master,
    copy,
    chunk_block,
    chunk_decays,
    factor,
    step_sizes,
    shrinks,
    apply,
    stride,
    rest1,
    rest2,
    epsilon,
    TASKS: tl.constexpr,
    COPY: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Combine and update one chunk, where `apply` says so and its block has a step size other than 0.

    gradients: [TASKS, P] in fp32, fp16 or bf16, the task gradients.
    touched: uint8 [TASKS, chunks], 0 where a chunk holds zeros only and is not read.
    coefficients: fp32 [blocks, TASKS], what the task gradients are multiplied by.
    momentum: fp32 [P], updated.
    variance: fp32 [P], updated.
    master: fp32 [P], the weights; updated.
    copy: [P] in the compute dtype, written: the weights, rounded; None without COPY.
    chunk_block: int32 [chunks], the block of each chunk.
    chunk_decays: bool [chunks], whether its weights decay.
    factor: fp32 scalar, that all coefficients are multiplied by.
    step_sizes: fp32 [blocks], the learning rate with its bias correction.
    shrinks: fp32 [blocks], 1 - rate * decay.
    apply: bool scalar, False leaves everything as it is.
    stride: int, elements from one task's gradients to the next.
    rest1, rest2, epsilon: float, 1 - beta1, 1 - beta2, and what is added to the root.
    """
    chunk = tl.program_id(0)
    block = tl.load(chunk_block + chunk)
    step_size = tl.load(step_sizes + block)
    if tl.load(apply) & (step_size != 0):
        column = tl.arange(0, CHUNK)
        at = chunk.to(tl.int64) * CHUNK + column
        gradient = tl.zeros([CHUNK], tl.float32)
        for task in tl.static_range(TASKS):
            coefficient = tl.load(coefficients + block * TASKS + task) * tl.load(factor)
            # Of a chunk that holds zeros only, no column is read.
            count = tl.where(tl.load(touched + task * tl.num_programs(0) + chunk) != 0, CHUNK, 0)
            value = tl.load(gradients + task * stride.to(tl.int64) + at, mask=column < count, other=0.0)
            gradient += coefficient * value.to(tl.float32)
        first = tl.load(momentum + at)
        first += (gradient - first) * rest1
        second = tl.load(variance + at)
        second += (gradient * gradient - second) * rest2
        weight = tl.load(master + at)
        weight -= step_size * first / (tl.sqrt(second) + epsilon)
        weight *= tl.where(tl.load(chunk_decays + chunk), tl.load(shrinks + block), 1.0)
        tl.store(momentum + at, first)
        tl.store(variance + at, second)
        tl.store(master + at, weight)
        if COPY:
            tl.store(copy + at, weight)


@launcher(lambda *arguments: None, mutates=("momentum", "variance", "master", "copy"))
def combine_adamw_step(
    gradients: Tensor,
    touched: Tensor,
    coefficients: Tensor,
    momentum: Tensor,
    variance: Tensor,
    master: Tensor,
    copy: Tensor | None,
    chunk_block: Tensor,
    chunk_decays: Tensor,
    factor: Tensor,
    step_sizes: Tensor,
    shrinks: Tensor,
    apply: Tensor,
    rest1: float,
    rest2: float,
    epsilon: float,
) -> None:
    """One launch over all chunks; `copy` is None where the forward reads the master itself."""
    _combine_adamw_kernel[(len(chunk_block),)](
        gradients,
        touched,
        coefficients,
        momentum,
        variance,
        master,
        copy,
        chunk_block,
        chunk_decays,
        factor,
        step_sizes,
        shrinks,
        apply,
        gradients.stride(0),
        rest1,
        rest2,
        epsilon,
        TASKS=gradients.shape[0],
        COPY=copy is not None,
        CHUNK=CHUNK,
        num_warps=4,
    )
