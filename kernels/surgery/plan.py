"""From Gram matrices to the update: coefficients, clip factor, loss scale, rates and statistics, all on the device.

On CUDA it is one program of one launch, whatever the model's size, between two passes over the gradients; nothing is
read on the host.
"""

import functools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from concord.kernels.dispatch import uses_triton
from concord.kernels.surgery.rules import MOST_TASKS, cosines, random_orders, surgery_coefficients

METHODS = ("none", "pcgrad", "gradvac", "given")
_INITIAL_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000  # steps without overflow after which the loss scale doubles (Micikevicius et al., 2018)


@dataclass(frozen=True, kw_only=True)
class SurgerySettings:
    """What stays the same over a run.

    method: none (the sum of the gradients), pcgrad, gradvac, or given (coefficients come from elsewhere).
    by_block: whether each block of the shared parameters has surgery of its own; otherwise the whole model has one.
    private_norms: whether the dot products span the private parameters too, which then are scaled like the shared ones
        (the first PCGrad library for torch does so); not with by_block.
    mean: whether the shared update is the mean of the projected gradients instead of their sum.
    gradvac_beta: how fast GradVac's targets follow the cosines.
    max_norm: the global norm that the merged gradient is clipped to; 0 for no clipping.
    scaling: whether losses are multiplied by a dynamic loss scale (fp16).
    beta1: AdamW's rate of decay of the first moments.
    beta2: AdamW's rate of decay of the second moments.
    epsilon: what AdamW adds to the root of the second moments.
    weight_decay: AdamW's, which the learning rate multiplies.
    """

    method: str = "none"
    by_block: bool = False
    private_norms: bool = False
    mean: bool = False
    gradvac_beta: float = 0.01
    max_norm: float = 0.0
    scaling: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: expected one of {', '.join(METHODS)}")
        if self.by_block and self.private_norms:
            raise ValueError("private_norms: dot products that span the private parameters are the whole model's")


@dataclass(frozen=True)
class SurgeryState:
    """What a step leaves for the next one, on the device; see `new_surgery_state`.

    loss_scale: fp32 scalar, what losses are multiplied by.
    steps_since_overflow: int64 scalar.
    applied_steps: int64 scalar.
    skipped_steps: int64 scalar, those whose gradients were not finite.
    skipped_in_row: int64 [3], how many of them the last steps were, in a row; the number (from 1) of the first of these
        and the task whose gradient was not finite then, the first where there were several; zeros after a step that was
        applied.
    beta_powers: fp64 [blocks + heads, 2], beta1^t and beta2^t of the t steps in which each block moved.
    targets: fp64 [groups, T, T], GradVac's.

    Sums over the applied steps follow, of each block and, in the last row, of the whole model:

    meetings: fp64 [blocks + 1, T, T], how often two tasks both had a gradient (one task, on the diagonal).
    conflicts: fp64 [blocks + 1, T, T], how often their dot product was negative.
    cosines: fp64 [blocks + 1, T, T], of their gradients.
    norms: fp64 [blocks + 1, T], of the task gradients.
    changes: fp64 [blocks + 1], by how much surgery changed the plain sum (or mean), as a share of its norm.
    """

    loss_scale: Tensor
    steps_since_overflow: Tensor
    applied_steps: Tensor
    skipped_steps: Tensor
    skipped_in_row: Tensor
    beta_powers: Tensor
    targets: Tensor
    meetings: Tensor
    conflicts: Tensor
    cosines: Tensor
    norms: Tensor
    changes: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, of all of them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class SurgeryPlan:
    """What the optimizer's pass over the gradients reads, and what a log may show; all on the device.

    A block whose learning rate or whose gradients are 0 is left as it is: its step size is 0, and its shrink 1.

    coefficients: fp32 [blocks, T], what the task gradients of each block are multiplied by.
    private_coefficients: fp32 [heads, 1], the same of the private blocks.
    factor: fp32 scalar, the clip factor over the loss scale, which all coefficients are to be multiplied by.
    step_sizes: fp32 [blocks], AdamW's learning rate with its bias correction.
    shrinks: fp32 [blocks], 1 - rate * decay, what weights are multiplied by.
    private_step_sizes: fp32 [heads], those of the private blocks.
    private_shrinks: fp32 [heads], those of the private blocks.
    apply: bool scalar, False where a gradient is not finite.
    gram: fp64 [T, T], of the whole model without its private parameters, free of the loss scale.
    merged_norm: fp64 scalar, of the update's gradient before clipping, private parameters included.
    """

    coefficients: Tensor
    private_coefficients: Tensor
    factor: Tensor
    step_sizes: Tensor
    shrinks: Tensor
    private_step_sizes: Tensor
    private_shrinks: Tensor
    apply: Tensor
    gram: Tensor
    merged_norm: Tensor


@dataclass(frozen=True)
class Rates:
    """Learning rates on the device.

    shared: fp32 [blocks], of the shared blocks.
    private: fp32 [heads], of the private blocks.
    factor: fp32 scalar, what all of them are multiplied by.
    """

    shared: Tensor
    private: Tensor
    factor: Tensor


def new_surgery_state(
    settings: SurgerySettings, tasks: int, blocks: int, heads: int, device: torch.device | str
) -> SurgeryState:
    """The state before the first step of `blocks` shared and `heads` private blocks.

    ValueError where there are more than 16 tasks.
    """
    if tasks > MOST_TASKS:
        raise ValueError(f"{tasks} tasks: surgery takes up to {MOST_TASKS}")

    def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return SurgeryState(
        loss_scale=torch.tensor(_INITIAL_SCALE if settings.scaling else 1.0, device=device),
        steps_since_overflow=zeros(dtype=torch.int64),
        applied_steps=zeros(dtype=torch.int64),
        skipped_steps=zeros(dtype=torch.int64),
        skipped_in_row=zeros(3, dtype=torch.int64),
        beta_powers=torch.ones(blocks + heads, 2, dtype=torch.float64, device=device),
        targets=zeros(blocks if settings.by_block else 1, tasks, tasks),
        meetings=zeros(blocks + 1, tasks, tasks),
        conflicts=zeros(blocks + 1, tasks, tasks),
        cosines=zeros(blocks + 1, tasks, tasks),
        norms=zeros(blocks + 1, tasks),
        changes=zeros(blocks + 1),
    )


def plan_update(
    gram: Tensor,
    private_squares: Tensor,
    private_tasks: Tensor,
    rates: Rates,
    seed: Tensor,
    settings: SurgerySettings,
    state: SurgeryState,
    given: Tensor | None = None,
) -> SurgeryPlan:
    """Plan one step, and advance `state`; nothing is read on the host.

    gram: fp64 [blocks, T, T] of the shared blocks, loss scale and all; private_squares: fp64 [heads], the squared
    gradient norms of the private blocks; private_tasks: int32 [heads], the task that each of them belongs to; seed:
    int64 scalar, one a step; given: fp64 [groups, T], coefficients for the method of that name.

    Where a gradient is not finite the plan says not to apply it, and the state keeps everything but the loss scale and
    the counters. A block without a gradient (its task is not in the batch, or nothing reads it) or with a rate of 0 is
    left as it is, and its bias correction does not go on, as torch leaves parameters that have no gradient.
    """
    plan = _plan_with_triton if uses_triton("plan_update", rates.shared) else _plan
    return plan(gram, private_squares, private_tasks, rates, seed, settings, state, given)


def _plan(
    gram: Tensor,
    private_squares: Tensor,
    private_tasks: Tensor,
    rates: Rates,
    seed: Tensor,
    settings: SurgerySettings,
    state: SurgeryState,
    given: Tensor | None,
) -> SurgeryPlan:
    blocks, tasks, _ = gram.shape
    inverse = 1 / state.loss_scale.double()
    gram, private_squares = gram * inverse**2, private_squares * inverse**2
    total = gram.sum(0)
    apply = torch.isfinite(total.diagonal().sum() + private_squares.sum())
    if settings.method == "given":
        rows = given
    else:
        groups = gram if settings.by_block else total[None]
        if settings.private_norms:
            groups = groups + torch.zeros_like(groups[0, 0]).index_add(0, private_tasks, private_squares).diag()
        orders = random_orders(seed, tasks)
        rows, targets = surgery_coefficients(groups, orders, settings.method, state.targets, settings.gradvac_beta)
        state.targets.copy_(torch.where(apply, targets, state.targets))
    private = rows[0, private_tasks] if settings.private_norms else torch.ones_like(private_squares)
    plain = 1 / tasks if settings.mean else 1.0
    rows = (rows * plain).expand(blocks, tasks)

    def squared_norms(weights: Tensor) -> Tensor:
        # Rounding can leave a tiny negative number where everything cancels.
        return (weights[:, :, None] * gram * weights[:, None, :]).sum((1, 2)).clamp_min(0)

    merged_norm = (squared_norms(rows).sum() + (private**2 * private_squares).sum()).sqrt()
    factor = inverse
    if settings.max_norm:
        factor = factor * (settings.max_norm / merged_norm.clamp_min(1e-12)).clamp_max(1.0)

    changed, unchanged = squared_norms(rows - plain), squared_norms(torch.full_like(rows, plain))
    changed, unchanged = (torch.cat([values, values.sum()[None]]) for values in (changed, unchanged))
    both = torch.cat([gram, total[None]])
    squares = both.diagonal(dim1=1, dim2=2)
    for sums, values in (
        (state.meetings, (squares[:, :, None] > 0) & (squares[:, None, :] > 0)),
        (state.conflicts, both < 0),
        (state.cosines, cosines(both)),
        (state.norms, squares.sqrt()),
        (state.changes, torch.where(unchanged > 0, (changed / unchanged).sqrt(), 0.0)),
    ):
        sums += torch.where(apply, values, 0.0)

    effective = torch.cat([rates.shared, rates.private]).double() * rates.factor.double()
    of_blocks = torch.cat([squares[:-1].sum(1), private_squares])
    steps, shrinks = adamw_steps(effective, of_blocks, apply, settings, state.beta_powers)
    of_tasks = total.diagonal().index_add(0, private_tasks, private_squares)
    culprit = (~torch.isfinite(of_tasks)).to(torch.int64).argmax()
    state.applied_steps.add_(apply)
    state.skipped_steps.add_(~apply)
    begins = torch.stack([torch.zeros_like(culprit), state.applied_steps + state.skipped_steps, culprit])
    row = torch.where(state.skipped_in_row[0] == 0, begins, state.skipped_in_row)
    row[0] += 1
    state.skipped_in_row.copy_(torch.where(apply, 0, row))
    if settings.scaling:
        since = torch.where(apply, state.steps_since_overflow + 1, 0)
        grows = since >= _GROWTH_INTERVAL
        state.loss_scale.mul_(torch.where(apply, torch.where(grows, 2.0, 1.0), 0.5))
        state.steps_since_overflow.copy_(torch.where(grows, 0, since))
    return SurgeryPlan(
        coefficients=rows.float().contiguous(),
        private_coefficients=private.float()[:, None],
        factor=factor.float(),
        step_sizes=steps[:blocks].float(),
        shrinks=shrinks[:blocks].float(),
        private_step_sizes=steps[blocks:].float(),
        private_shrinks=shrinks[blocks:].float(),
        apply=apply,
        gram=total,
        merged_norm=merged_norm,
    )


def adamw_steps(
    rates: Tensor, squares: Tensor, apply: Tensor, settings: SurgerySettings, beta_powers: Tensor
) -> tuple[Tensor, Tensor]:
    """AdamW's rate with its bias correction, and 1 - rate * decay, of each block: fp64 [n]; 0 and 1 where it rests.

    rates, squares: fp64 [n], learning rates and the squared norms of the gradients: a block rests where either is 0;
    apply: bool scalar, whether the step is applied; beta_powers: fp64 [n, 2], which are advanced where it is and the
    block does not rest.
    """
    live = (rates != 0) & (squares > 0)
    betas = torch.tensor([settings.beta1, settings.beta2], dtype=torch.float64, device=rates.device)
    beta_powers.mul_(torch.where((apply & live)[:, None], betas, 1.0))
    correction = (1 - beta_powers[:, 1]).sqrt() / (1 - beta_powers[:, 0]).clamp_min(1e-12)
    return torch.where(live, rates * correction, 0.0), torch.where(live, 1 - rates * settings.weight_decay, 1.0)


def _plan_with_triton(
    gram: Tensor,
    private_squares: Tensor,
    private_tasks: Tensor,
    rates: Rates,
    seed: Tensor,
    settings: SurgerySettings,
    state: SurgeryState,
    given: Tensor | None,
) -> SurgeryPlan:
    from concord.kernels.surgery.plan_kernels import launch_plan

    blocks, tasks, _ = gram.shape
    heads, device = len(private_squares), gram.device

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    plan = SurgeryPlan(
        coefficients=empty(blocks, tasks),
        private_coefficients=empty(heads, 1),
        factor=empty(),
        step_sizes=empty(blocks),
        shrinks=empty(blocks),
        private_step_sizes=empty(heads),
        private_shrinks=empty(heads),
        apply=empty(dtype=torch.bool),
        gram=empty(tasks, tasks, dtype=torch.float64),
        merged_norm=empty(dtype=torch.float64),
    )
    launch_plan(
        gram=gram.contiguous(),
        private_squares=private_squares.contiguous(),
        private_tasks=private_tasks,
        rates=rates.shared,
        private_rates=rates.private,
        rate_factor=rates.factor,
        seed=seed,
        given=given,
        constants=_constants(settings, tasks, device),
        state=state.tensors(),
        plan={field.name: getattr(plan, field.name) for field in fields(plan)},
        method=settings.method,
        by_block=settings.by_block,
        private_norms=settings.private_norms,
        clip=settings.max_norm > 0,
        scaling=settings.scaling,
        growth_interval=_GROWTH_INTERVAL,
    )
    return plan


@functools.cache
def _constants(settings: SurgerySettings, tasks: int, device: torch.device) -> Tensor:
    """The numbers that the kernel reads as fp64: an argument of a launch would be rounded to fp32."""
    plain = 1 / tasks if settings.mean else 1.0
    values = (settings.beta1, settings.beta2, settings.weight_decay, settings.gradvac_beta, settings.max_norm, plain)
    return torch.tensor(values, dtype=torch.float64, device=device)
