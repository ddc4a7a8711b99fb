"""Combine + clip + AdamW + low-precision copy: the optimizer's pass over the flat buffers.

The merged gradient `coefficients @ gradients` is never stored. AdamW is the form with efficient bias correction
(Kingma and Ba, 2015, end of section 2) and decoupled weight decay (Loshchilov and Hutter, 2019):

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    w <- w - rate * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon),   then   w <- w - rate * decay * w

Coefficients, rates and whether to step at all are read from device memory: `kernels.surgery.plan` puts them there. A
block whose step size is 0 rests: neither its weights nor its moments change.

Each of T * P gradients is read once, but of embedding tables only what a step touched, each of 3 P state values read
and written once, and the copy written once: with three bf16 gradients and a bf16 copy at most 32 bytes a parameter,
0.81 ms for BERT-base at 4.3 TB/s.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from concord.kernels.dispatch import launchers
from concord.kernels.layout.flat import FlatParameters

_SLICE = 1 << 18  # elements a call: they fit in a processor's cache, and take longer than the call itself
_LATE = 1e7  # the step that torch is told, at which its bias correction is 1: the step sizes hold ours already


def _triton() -> Any:
    """The module of the Triton launchers."""
    from concord.kernels.surgery import adamw_kernels

    return adamw_kernels


def combine_adamw_(
    parameters: FlatParameters,
    coefficients: Tensor,
    *,
    factor: Tensor,
    step_sizes: Tensor,
    shrinks: Tensor,
    apply: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-6,
) -> None:
    """One optimizer step on the merged gradient, in place.

    coefficients: fp32 [blocks, T], a row for each block; factor: fp32 scalar that they are multiplied by; step_sizes,
    shrinks: fp32 [blocks], the rate with its bias correction, and 1 - rate * decay; a block with a step size of 0 is
    left as it is, moments and all; apply: bool scalar, False leaves
    weights and moments untouched, bit for bit, whatever the gradients hold (an overflow); epsilon: is added to the
    root. All tensors are on the device, and the kernel's launch reads none of them on the host.
    """
    if parameters.size == 0:
        return
    copy = None if parameters.compute is parameters.master else parameters.compute
    if kernels := launchers("combine_adamw", parameters.master, _triton):
        kernels.combine_adamw_step(
            parameters.gradients,
            parameters.touched,
            coefficients,
            parameters.momentum,
            parameters.variance,
            parameters.master,
            copy,
            parameters.chunk_block,
            parameters.chunk_decays,
            factor,
            step_sizes,
            shrinks,
            apply,
            1 - beta1,
            1 - beta2,
            epsilon,
        )
        return
    if not apply:  # the reference may read it: on a CPU no device is waited for
        return
    rows = coefficients * factor
    sizes, kept = step_sizes.tolist(), shrinks.tolist()
    late = torch.tensor(_LATE, device=coefficients.device)
    for run in parameters.runs:
        if sizes[run.block] == 0:
            continue
        # torch shrinks the weights before the step, and here the step comes first and is shrunk too: hence this rate.
        shrink = kept[run.block] if run.decays else 1.0
        rate = sizes[run.block] * shrink
        decay = (1 - shrink) / rate
        for start in range(run.start, run.stop, _SLICE):
            span = slice(start, min(start + _SLICE, run.stop))
            gradient = rows[run.block] @ parameters.gradients[:, span].float()
            adamw(
                [parameters.master[span]],
                [gradient],
                [parameters.momentum[span]],
                [parameters.variance[span]],
                [],
                [late],
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=rate,
                weight_decay=decay,
                eps=epsilon,
                maximize=False,
            )
            if copy is not None:
                copy[span] = parameters.master[span]
