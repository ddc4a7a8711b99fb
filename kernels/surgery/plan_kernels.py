"""The Triton kernel of `kernels.surgery.plan.plan_update`: one program that plans a whole step.

It reads some hundred numbers, and its time is the latency of its instructions. What one thread tells another stays in
registers and never goes through global memory. What several threads read and one of them writes anew is written behind
a barrier.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.dispatch import architecture
from concord.kernels.surgery.coefficients_kernels import random_ranks, rows_of_blocks, rows_of_model
from concord.kernels.surgery.rules import MOST_TASKS, ORDERS_SITE
from concord.kernels.surgery.state_kernels import add, add_statistics, count_step, step_sizes_of

_ELEMENTS = 512  # elements of the largest tensor of a program, which takes as many blocks at once as they allow


@triton.jit
def _squared_norms(gram, weights):
    """|weights @ gradients|^2 of a tile of blocks: fp64 [BLOCKS]; rounding can leave a tiny negative number."""
    rows = tl.sum(gram * weights[:, None, :], 2)
    return tl.maximum(tl.sum(rows * weights, 1), 0.0)


@triton.jit
def _whole_gram(gram, blocks, pair_at, pair_mask, TASKS: tl.constexpr, WIDTH: tl.constexpr, BLOCKS: tl.constexpr):
    """The Gram matrix of the whole model, the sum of its blocks': fp64 [WIDTH, WIDTH]."""
    total = tl.zeros([WIDTH, WIDTH], tl.float64)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        mask = (block < blocks)[:, None, None] & pair_mask[None, :, :]
        values = tl.load(gram + (block * TASKS * TASKS)[:, None, None] + pair_at[None, :, :], mask=mask, other=0.0)
        total += tl.sum(values, 0)
    return total


@triton.jit
def _surgery_plan_kernel(
    gram,
    private_squares,
    private_tasks,
    rates,
    private_rates,
    rate_factor,
    seed,
    given,
    constants,
    loss_scale,
    steps_since_overflow,
    applied_steps,
    skipped_steps,
    skipped_in_row,
    beta_powers,
    targets,
    meetings,
    conflicts,
    cosines,
    norms,
    changes,
    coefficients,
    private_coefficients,
    factor,
    step_sizes,
    shrinks,
    private_step_sizes,
    private_shrinks,
    apply,
    total_gram,
    merged_norm,
    blocks,
    heads,
    growth_interval,
    METHOD: tl.constexpr,
    BY_BLOCK: tl.constexpr,
    PRIVATE_NORMS: tl.constexpr,
    CLIP: tl.constexpr,
    SCALING: tl.constexpr,
    SITE: tl.constexpr,
    MOST: tl.constexpr,
    TASKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """One step's plan; what `SurgeryState` and `SurgeryPlan` say of their tensors is not said again here.

    gram: fp64 [blocks, TASKS, TASKS], the Gram matrices of the shared blocks, loss scale and all.
    private_squares: fp64 [heads], the squared gradient norms of the private blocks.
    private_tasks: int32 [heads], the task that each of them belongs to.
    rates: fp32 [blocks], learning rates of the shared blocks.
    private_rates: fp32 [heads], learning rates of the private blocks.
    rate_factor: fp32 scalar, what all rates are multiplied by.
    seed: int64 scalar, of the step.
    given: fp64 [1 or blocks, TASKS], the coefficients of the method "given"; None for others.
    constants: fp64 [6]: beta1, beta2, weight decay, GradVac's beta, the norm to clip to, and the plain sum's weight.
    loss_scale: fp32 scalar, updated where SCALING.
    steps_since_overflow: int64 scalar, updated where SCALING.
    applied_steps: int64 scalar, updated.
    skipped_steps: int64 scalar, updated.
    skipped_in_row: int64 [3], updated.
    beta_powers: fp64 [blocks + heads, 2], updated.
    targets: fp64 [1 or blocks, TASKS, TASKS], updated by "gradvac".
    meetings: fp64 [blocks + 1, TASKS, TASKS], updated, as the next four are.
    conflicts: fp64 [blocks + 1, TASKS, TASKS].
    cosines: fp64 [blocks + 1, TASKS, TASKS].
    norms: fp64 [blocks + 1, TASKS].
    changes: fp64 [blocks + 1].
    coefficients: fp32 [blocks, TASKS], written, as everything from here on is.
    private_coefficients: fp32 [heads, 1].
    factor: fp32 scalar.
    step_sizes: fp32 [blocks].
    shrinks: fp32 [blocks].
    private_step_sizes: fp32 [heads].
    private_shrinks: fp32 [heads].
    apply: bool scalar.
    total_gram: fp64 [TASKS, TASKS], the plan's `gram`.
    merged_norm: fp64 scalar.
    blocks, heads, growth_interval: int; the last: steps without overflow after which the loss scale doubles.
    """
    beta1, beta2 = tl.load(constants), tl.load(constants + 1)
    decay, target_rate, max_norm = tl.load(constants + 2), tl.load(constants + 3), tl.load(constants + 4)
    plain = tl.load(constants + 5)  # the weight of each gradient in the plain sum or mean
    inverse = 1.0 / tl.load(loss_scale).to(tl.float64)
    row, column = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    task = tl.arange(0, WIDTH)
    pair_mask = (row < TASKS) & (column < TASKS)
    pair_at = row * TASKS + column
    diagonal = row == column

    total = _whole_gram(gram, blocks, pair_at, pair_mask, TASKS, WIDTH, BLOCKS) * (inverse * inverse)
    tl.store(total_gram + pair_at, total, mask=pair_mask)
    total_squares = tl.sum(tl.where(diagonal, total, 0.0), 1)

    head = tl.arange(0, HEADS)
    private = tl.load(private_squares + head, mask=head < heads, other=0.0) * inverse * inverse
    owner = tl.load(private_tasks + head, mask=head < heads, other=0)
    owns = (owner[:, None] == task[None, :]) & (head < heads)[:, None]
    # These are sums of squares, in which infinities cannot cancel; a NaN compares as false.
    finite = (tl.sum(total_squares, 0) + tl.sum(private, 0)) < float("inf")
    tl.store(apply, finite)
    # A step that is not applied leaves the state alone: these limits mask what it would write.
    live_tasks, live_blocks = tl.where(finite, TASKS, 0), tl.where(finite, blocks, 0)
    live_pairs = (row < live_tasks) & (column < live_tasks)

    ranks = random_ranks(tl.load(seed), SITE, MOST, TASKS, WIDTH)
    rows = tl.full([BLOCKS, WIDTH], 1.0, tl.float64)
    private_rows = tl.full([HEADS], 1.0, tl.float64)
    if METHOD != "none" and not BY_BLOCK:
        rows = rows_of_model(
            given,
            targets,
            total,
            total_squares,
            private,
            owns,
            target_rate,
            ranks,
            pair_at,
            pair_mask,
            live_pairs,
            METHOD,
            PRIVATE_NORMS,
            TASKS,
            WIDTH,
            BLOCKS,
        )
    if PRIVATE_NORMS:
        own = tl.sum(rows, 0) / BLOCKS
        private_rows = tl.sum(tl.where(owns, own[None, :], 0.0), 1)

    schedule = tl.load(rate_factor).to(tl.float64)
    merged = tl.sum(private_rows * private_rows * private, 0)
    changed, unchanged = merged * 0, merged * 0
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        inside = block < blocks
        mask = inside[:, None, None] & pair_mask[None, :, :]
        at = (block * TASKS * TASKS)[:, None, None] + pair_at[None, :, :]
        values = tl.load(gram + at, mask=mask, other=0.0) * (inverse * inverse)
        squares = tl.sum(tl.where(diagonal[None, :, :], values, 0.0), 2)
        task_at = (block * TASKS)[:, None] + task[None, :]
        task_mask = inside[:, None] & (task < TASKS)[None, :]
        if METHOD != "none" and BY_BLOCK:
            rows = rows_of_blocks(
                given,
                targets,
                values,
                squares,
                target_rate,
                ranks,
                at,
                mask,
                task_at,
                task_mask,
                live_pairs,
                METHOD,
                TASKS,
                WIDTH,
                BLOCKS,
            )
        weights = rows * plain
        tl.store(coefficients + task_at, weights, mask=task_mask)
        merged += tl.sum(_squared_norms(values, weights), 0)
        difference = _squared_norms(values, weights - plain)
        whole = _squared_norms(values, weights * 0 + plain)
        changed += tl.sum(difference, 0)
        unchanged += tl.sum(whole, 0)
        share = tl.where(whole > 0, tl.sqrt(difference / tl.where(whole > 0, whole, 1.0)), 0.0)
        add(changes + block, share, block < live_blocks)
        add_statistics(
            meetings,
            conflicts,
            cosines,
            norms,
            values,
            squares,
            at,
            task_at,
            mask & live_pairs[None, :, :],
            task_mask & (task < live_tasks)[None, :],
        )
        rate = tl.load(rates + block, mask=inside, other=0.0).to(tl.float64) * schedule
        of_block = tl.sum(squares, 1)
        size, shrink = step_sizes_of(beta_powers, block, inside, rate, of_block, finite, decay, beta1, beta2)
        tl.store(step_sizes + block, size, mask=inside)
        tl.store(shrinks + block, shrink, mask=inside)

    if finite:
        share = tl.where(unchanged > 0, tl.sqrt(changed / tl.where(unchanged > 0, unchanged, 1.0)), 0.0)
        tl.store(changes + blocks, tl.load(changes + blocks) + share)
    last = blocks * TASKS
    add_statistics(
        meetings,
        conflicts,
        cosines,
        norms,
        total[None, :, :],
        total_squares[None, :],
        last * TASKS + pair_at[None, :, :],
        last + task[None, :],
        live_pairs[None, :, :],
        (task < live_tasks)[None, :],
    )
    norm = tl.sqrt(merged)
    tl.store(merged_norm, norm)
    scale = inverse
    if CLIP:
        scale *= tl.minimum(max_norm / tl.maximum(norm, 1e-12), 1.0)
    tl.store(factor, scale)

    inside = head < heads
    rate = tl.load(private_rates + head, mask=inside, other=0.0).to(tl.float64) * schedule
    size, shrink = step_sizes_of(beta_powers, blocks + head, inside, rate, private, finite, decay, beta1, beta2)
    tl.store(private_coefficients + head, private_rows, mask=inside)
    tl.store(private_step_sizes + head, size, mask=inside)
    tl.store(private_shrinks + head, shrink, mask=inside)
    of_tasks = total_squares + tl.sum(tl.where(owns, private[:, None], 0.0), 0)
    wrong = (task < TASKS) & ~(of_tasks < float("inf"))
    count_step(
        applied_steps,
        skipped_steps,
        skipped_in_row,
        loss_scale,
        steps_since_overflow,
        finite,
        tl.min(tl.where(wrong, task, WIDTH), 0),
        growth_interval,
        SCALING,
    )


def launch_plan(
    *,
    gram: Tensor,
    private_squares: Tensor,
    private_tasks: Tensor,
    rates: Tensor,
    private_rates: Tensor,
    rate_factor: Tensor,
    seed: Tensor,
    given: Tensor | None,
    constants: Tensor,
    state: Mapping[str, Tensor],
    plan: Mapping[str, Tensor],
    method: str,
    by_block: bool,
    private_norms: bool,
    clip: bool,
    scaling: bool,
    growth_interval: int,
) -> None:
    """Launch the kernel, whose arguments `gram` to `constants` are.

    state, plan: the tensors of a `SurgeryState`, which is advanced, and of a `SurgeryPlan`, which is written, by the
    names of their fields; by_block to scaling: as in `SurgerySettings`, clip: whether its norm is limited.
    """
    blocks, tasks, _ = gram.shape
    heads = len(private_squares)
    width = max(2, triton.next_power_of_2(tasks))
    tile = max(1, _ELEMENTS // width**3) if by_block else max(1, _ELEMENTS // width**2)
    outputs = {"total_gram" if name == "gram" else name: tensor for name, tensor in plan.items()}
    with torch.cuda.device_of(gram):
        # Only one program runs, which may have all registers; left to itself, ptxas would spill instead.
        options = {} if architecture(gram.device) == "hip" else {"maxnreg": 255}
        _surgery_plan_kernel[(1,)](
            gram=gram,
            private_squares=private_squares,
            private_tasks=private_tasks,
            rates=rates,
            private_rates=private_rates,
            rate_factor=rate_factor,
            seed=seed,
            given=given,
            constants=constants,
            **state,
            **outputs,
            blocks=blocks,
            heads=heads,
            growth_interval=growth_interval,
            METHOD=method,
            BY_BLOCK=by_block,
            PRIVATE_NORMS=private_norms,
            CLIP=clip,
            SCALING=scaling,
            SITE=ORDERS_SITE,
            MOST=MOST_TASKS,
            TASKS=tasks,
            WIDTH=width,
            BLOCKS=min(tile, triton.next_power_of_2(blocks)),
            HEADS=triton.next_power_of_2(max(2, heads)),
            num_warps=4,
            **options,
        )
