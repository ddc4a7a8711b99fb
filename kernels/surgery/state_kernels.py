"""Triton functions that advance a `SurgeryState`: sums of the conflicts' statistics, AdamW's powers, counted steps."""

import triton
import triton.language as tl


@triton.jit
def add(sums, values, mask):
    """Add a tile of values to the sums that stand at a tile of pointers."""
    tl.store(sums, tl.load(sums, mask=mask, other=0.0) + values, mask=mask)


@triton.jit
def add_statistics(meetings, conflicts, cosines, norms, gram, squares, pair_at, task_at, pair_mask, task_mask):
    """Take a tile of Gram matrices into the sums that begin at the four pointers."""
    roots = tl.sqrt(squares)
    products = roots[:, :, None] * roots[:, None, :]
    add(meetings + pair_at, (products > 0).to(tl.float64), pair_mask)
    add(conflicts + pair_at, (gram < 0).to(tl.float64), pair_mask)
    cosine = tl.where(products > 0, gram / tl.where(products > 0, products, 1.0), 0.0)
    add(cosines + pair_at, cosine, pair_mask)
    add(norms + task_at, roots, task_mask)


@triton.jit
def step_sizes_of(beta_powers, at, inside, rate, squares, finite, decay, beta1, beta2):
    """`adamw_steps` of a tile of blocks, the rows `at` of the powers: step sizes and shrinks, fp64 like `rate`."""
    power1 = tl.load(beta_powers + 2 * at, mask=inside, other=1.0)
    power2 = tl.load(beta_powers + 2 * at + 1, mask=inside, other=1.0)
    tl.debug_barrier()
    live = (rate != 0) & (squares > 0)
    power1 *= tl.where(live, tl.where(finite, beta1, 1.0), 1.0)
    power2 *= tl.where(live, tl.where(finite, beta2, 1.0), 1.0)
    tl.store(beta_powers + 2 * at, power1, mask=inside)
    tl.store(beta_powers + 2 * at + 1, power2, mask=inside)
    correction = tl.sqrt(1 - power2) / tl.maximum(1 - power1, 1e-12)
    return tl.where(live, rate * correction, 0.0), tl.where(live, 1 - rate * decay, 1.0)


@triton.jit
def count_step(
    applied_steps,
    skipped_steps,
    skipped_in_row,
    loss_scale,
    steps_since_overflow,
    finite,
    culprit,
    growth_interval,
    SCALING: tl.constexpr,
):
    """Count the step as applied or skipped, and let the loss scale grow or shrink."""
    counted = finite.to(tl.int64)
    applied = tl.load(applied_steps) + counted
    skipped = tl.load(skipped_steps) + (1 - counted)
    tl.store(applied_steps, applied)
    tl.store(skipped_steps, skipped)
    in_row = tl.load(skipped_in_row)
    first = tl.where(in_row == 0, applied + skipped, tl.load(skipped_in_row + 1))
    task = tl.where(in_row == 0, culprit.to(tl.int64), tl.load(skipped_in_row + 2))
    tl.debug_barrier()
    tl.store(skipped_in_row, (in_row + 1) * (1 - counted))
    tl.store(skipped_in_row + 1, first * (1 - counted))
    tl.store(skipped_in_row + 2, task * (1 - counted))
    if SCALING:
        since = tl.where(finite, tl.load(steps_since_overflow) + 1, 0)
        grows = since >= growth_interval
        tl.store(loss_scale, tl.load(loss_scale) * tl.where(finite, tl.where(grows, 2.0, 1.0), 0.5))
        tl.store(steps_since_overflow, tl.where(grows, 0, since))
