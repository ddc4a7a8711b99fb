"""Combine + clip + AdamW + low-precision copy: the optimizer's pass over the flat buffers.

The merged gradient `coefficients @ gradients` is never stored. AdamW is the form with efficient bias correction
(Kingma and Ba, 2015, end of section 2) and decoupled weight decay (Loshchilov and Hutter, 2019):

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    w <- w - rate * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon),   then   w <- w - rate * decay * w

Each of T * P gradients is read once, each of 3 P state values read and written once, and the copy written once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.flat import FlatParameters

_SLICE = 1 << 16  # elements: all operands of a slice stay in a core's cache from the first expression to the last


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """What stays the same over a run: beta1, beta2, epsilon (added to the root) and the decoupled weight decay."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01


def combine_adamw_(
    parameters: FlatParameters,
    coefficients: Tensor,
    *,
    learning_rate: Tensor,
    step: Tensor,
    apply: Tensor,
    settings: AdamWSettings,
) -> None:
    """One optimizer step on the merged gradient, in place.

    coefficients: fp32 [T], with the clip factor and the inverse loss scale in them; learning_rate: fp32 scalar;
    step: fp32 scalar, t in the formula, counting this step; apply: bool scalar, False leaves weights and moments
    untouched, bit for bit, whatever the gradients hold (an overflow). All are on the device and none is read on the
    host.
    """
    zero = torch.zeros((), device=step.device)
    correction = torch.sqrt(1 - settings.beta2**step) / (1 - settings.beta1**step)
    # A skipped step replaces everything by zero with weights of zero, since zero times an overflow would be NaN; the
    # quotient of the momentum and a divisor of infinity is zero too.
    first_weight = torch.where(apply, 1 - settings.beta1, zero)
    second_weight = torch.where(apply, 1 - settings.beta2, zero)
    divisor = -1 / torch.where(apply, learning_rate * correction, zero)
    shrink = torch.where(apply, 1 - learning_rate * settings.weight_decay, 1 + zero)
    for run in parameters.runs:
        for start in range(run.start, run.stop, _SLICE):
            span = slice(start, min(start + _SLICE, run.stop))
            gradient = torch.where(apply, coefficients @ parameters.gradients[:, span].float(), zero)
            momentum, variance, weights = (
                buffer[span] for buffer in (parameters.momentum, parameters.variance, parameters.master)
            )
            momentum.lerp_(gradient, first_weight)
            variance.lerp_(gradient.square_(), second_weight)
            weights.addcdiv_(momentum, variance.sqrt().add_(settings.epsilon).mul_(divisor))
            if run.decays and settings.weight_decay:
                weights.mul_(shrink)
            if parameters.compute is not parameters.master:
                parameters.compute[span] = weights
