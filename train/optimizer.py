"""One optimizer step: Gram matrix -> coefficients -> clip factor -> combine + AdamW, with nothing read on the host."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import AdamWSettings, FlatParameters, combine_adamw_, gram_matrix
from train.surgery import Rule, cosines

_INITIAL_SCALE = 2.0**16
_TIMES = 10  # that weights are taken into their average over its span
_GROWTH_INTERVAL = 2000  # steps without overflow after which the loss scale doubles (Micikevicius et al., 2018)


@dataclass(frozen=True)
class StepStatistics:
    """What a step leaves on the device: of the whole model, before surgery and clipping, loss scale taken out.

    gram: fp64 [T, T]; merged_norm: fp64, the norm of the update's gradient, heads included; applied: bool.
    """

    gram: Tensor
    merged_norm: Tensor
    applied: Tensor


class SurgeryOptimizer:
    """AdamW on the gradients that surgery merges, for the shared and the private parameters.

    Args:
        shared: parameters with one gradient a task.
        private: parameters with one gradient, which surgery leaves alone.
        rule: from the Gram matrix and the random orders to the coefficients.
        settings: of AdamW.
        max_norm: the global norm of the merged gradient is clipped to it; None for no clipping.
        scaling: whether losses are multiplied by a dynamic loss scale (fp16).
    """

    def __init__(
        self,
        shared: FlatParameters,
        private: FlatParameters,
        *,
        rule: Rule,
        settings: AdamWSettings,
        max_norm: float | None,
        scaling: bool,
    ) -> None:
        self.shared, self.private = shared, private
        self.rule, self.settings, self.max_norm, self.scaling = rule, settings, max_norm, scaling
        device = shared.master.device
        tasks = shared.gradients.shape[0]
        self.loss_scale = torch.tensor(_INITIAL_SCALE if scaling else 1.0, device=device)
        self.steps_since_overflow = torch.zeros((), device=device)
        self.applied_steps = torch.zeros((), device=device)
        self.skipped_steps = torch.zeros((), device=device)
        self.conflicting_steps = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
        self._average_steps = 0
        self._averages: list[Tensor] = []
        self.cosine_sums = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)

    def zero_private_gradients(self) -> None:
        """Clear what autograd adds to; the task gradients are overwritten by the first micro-batch instead."""
        self.private.gradients.zero_()

    @torch.no_grad()
    def step(self, *, orders: Tensor, shared_rate: float, private_rate: float) -> StepStatistics:
        """Merge the gradients and update all parameters, or skip both where a gradient is not finite.

        orders: int64 [T, T], see `train.surgery`; shared_rate, private_rate: learning rates of this step.
        """
        device = self.loss_scale.device
        gram = gram_matrix(self.shared).sum(0) / self.loss_scale.double() ** 2
        private_square = gram_matrix(self.private).sum() / self.loss_scale.double() ** 2
        finite = torch.isfinite(gram.diagonal()).all() & torch.isfinite(private_square)
        coefficients = self.rule(gram, orders.to(device, non_blocking=True))
        # |c g|^2 = c G c^T; rounding can leave a tiny negative number where everything cancels.
        merged_norm = (coefficients @ gram @ coefficients + private_square).clamp_min(0).sqrt()
        factor = 1 / self.loss_scale.double()
        if self.max_norm is not None:
            factor = factor * (self.max_norm / merged_norm.clamp_min(1e-12)).clamp_max(1.0)
        self.applied_steps += finite
        for parameters, weights, rate in (
            (self.shared, coefficients * factor, shared_rate),
            (self.private, factor.unsqueeze(0), private_rate),
        ):
            combine_adamw_(
                parameters,
                weights.float().expand(len(parameters.block_names), -1).contiguous(),
                learning_rate=torch.tensor(rate, device=device),
                step=self.applied_steps.clamp_min(1),
                apply=finite,
                settings=self.settings,
            )
        self._count(gram, finite)
        return StepStatistics(gram, merged_norm, finite)

    def keep_average(self, steps: int) -> None:
        """Keep a moving average of all weights over about the last `steps` steps, from the first step on."""
        self._average_steps = steps
        self._averages = [parameters.master.clone() for parameters in (self.shared, self.private)]

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Take the weights after `step` steps of the run into their average, if it is kept.

        That is done ten times within its span, and so costs next to nothing, with a weight of a tenth; at first with
        one of 1 / n, so that the average is that of the n times so far.
        """
        if not self._averages:
            return
        interval = max(1, self._average_steps // _TIMES)
        if step % interval == 0:
            weight = 1 / min(step // interval, self._average_steps // interval)
            for average, parameters in zip(self._averages, (self.shared, self.private), strict=True):
                average.lerp_(parameters.master, weight)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the model has its averaged weights, if they are kept."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, parameters in zip(self._averages, (self.shared, self.private), strict=False):
            weights = parameters.master.clone()
            parameters.master.copy_(average)
            average.copy_(weights)
            parameters.refresh_compute()

    def _count(self, gram: Tensor, finite: Tensor) -> None:
        self.skipped_steps += ~finite
        self.conflicting_steps += (gram < 0) & finite
        self.cosine_sums += torch.where(finite, cosines(gram), 0.0)
        if not self.scaling:
            return
        since = torch.where(finite, self.steps_since_overflow + 1, 0.0)
        grow = since >= _GROWTH_INTERVAL
        self.loss_scale *= torch.where(finite, torch.where(grow, 2.0, 1.0), 0.5)
        self.steps_since_overflow = torch.where(grow, 0.0, since)

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, weights included: name -> tensor."""
        tensors = {name: getattr(self, name) for name in _COUNTERS}
        for prefix, parameters in (("shared", self.shared), ("private", self.private)):
            for name in _BUFFERS:
                tensors[f"{prefix}.{name}"] = getattr(parameters, name)
        for prefix, average in zip(("shared", "private"), self._averages, strict=False):
            tensors[f"{prefix}.average"] = average
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave. The caller has checked names and shapes against `state()`."""
        for name, target in self.state().items():
            target.copy_(tensors[name])
        self.shared.refresh_compute()


_COUNTERS = (
    "loss_scale",
    "steps_since_overflow",
    "applied_steps",
    "skipped_steps",
    "conflicting_steps",
    "cosine_sums",
)
_BUFFERS = ("master", "momentum", "variance")
