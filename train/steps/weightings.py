"""Which surgery a run has: the device's rules, TorchJD's, which see nothing but the Gram matrix either, or one's own.

A rule of the user's own is (Gram matrices fp64 [groups, T, T] on the CPU) -> coefficients [groups, T], by which the
tasks' gradients are multiplied before they are added up.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.tables import find_own, is_own
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.settings.own import calling
from concord.train.settings.parts import AdamWConfig, SurgeryConfig
from concord.train.settings.tables import RULES
from concord.train.steps.optimizer import Weighting


def surgery_settings(surgery: SurgeryConfig, optimizer: AdamWConfig, *, scaling: bool) -> SurgerySettings:
    """What the optimizer's step goes by. TorchJD's rules come in the scale of a mean, and are measured against it.

    scaling: whether losses have a dynamic scale.
    """
    rule = RULES.entry(surgery.rule)
    return SurgerySettings(
        method={"host": "given", "device": rule.name}[rule.place],
        by_block=surgery.granularity != "model",
        private_norms=surgery.scope == "all",
        mean=rule.library or surgery.reduction == "mean",
        gradvac_beta=surgery.gradvac_beta,
        max_norm=optimizer.clip,
        scaling=scaling,
        weight_decay=optimizer.weight_decay,
    )


def pretraining_settings(optimizer: AdamWConfig, *, scaling: bool) -> SurgerySettings:
    """The same of pre-training, whose one task needs no surgery."""
    return SurgerySettings(max_norm=optimizer.clip, scaling=scaling, weight_decay=optimizer.weight_decay)


def name_of_rule(rule: str | Weighting) -> str:
    """What messages and saved states call a rule: its name, or MODULE:FUNCTION of a function."""
    if isinstance(rule, str):
        return rule
    kind = rule if hasattr(rule, "__qualname__") else type(rule)
    return f"{kind.__module__}:{kind.__qualname__}"


def host_weighting(rule: str | Weighting, tasks: int, groups: int, *, mean: bool) -> Weighting | None:
    """The rule that computes on the host, for so many Gram matrices a step; None for one of the device.

    rule: its name, or a rule of the user's own itself; mean: whether a rule of the user's own has its coefficients
    divided by the number of tasks. Raises InputError where there is no rule of the name, TorchJD, or what the rule
    needs beside it, is not installed, and where a rule of the user's own fails on made-up gradients.
    """
    name = name_of_rule(rule)
    if not isinstance(rule, str) or is_own(rule):
        weighting = _OwnRule(name, find_own(rule) if isinstance(rule, str) else rule, 1 / tasks if mean else 1.0)
        weighting.try_on(groups, tasks)
        return weighting
    entry = RULES.entry(name)
    if entry.place == "device":
        return None
    try:
        rule = RULES.resolve(name)(**entry.options)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--surgery {name}: needs pip install -e '.[rules]' ({reason})") from None
    carried = getattr(rule, "starts_from", None)
    start = None if carried is None else torch.tensor(carried, dtype=torch.float64).repeat(groups, tasks, 1)
    return _OnTheHost(rule, start, scale_free=entry.scale_free)


def describe_surgery(surgery: SurgeryConfig) -> str:
    """The run's surgery for its first lines."""
    rule = RULES.entry(surgery.rule)
    if rule.name == "none":
        return f"none (the {surgery.reduction} of the tasks' gradients)"
    if rule.library:
        return (
            f"{surgery.rule} by {surgery.granularity}, in the scale of a mean (TorchJD, on the host: every step waits "
            "for the device)"
        )
    norms = "shared parameters" if surgery.scope == "shared" else "all parameters, heads included"
    if rule.place == "host":
        return (
            f"{surgery.rule} by {surgery.granularity}, over {norms}, {surgery.reduction} of the weighted gradients "
            "(your own, on the host: every step waits for the device)"
        )
    return f"{surgery.rule} by {surgery.granularity}, over {norms}, {surgery.reduction} of the projected gradients"


class _OwnRule:
    """A rule of the user's own, whose coefficients are checked, and multiplied by `scale`."""

    def __init__(self, name: str, rule: Weighting, scale: float) -> None:
        self._name, self._rule, self._scale = name, rule, scale

    def try_on(self, groups: int, tasks: int) -> None:
        """Call it with the Gram matrices of made-up gradients; InputError where it fails."""
        generator = torch.Generator().manual_seed(1)
        gradients = torch.randn(groups, tasks, 2 * tasks, dtype=torch.float64, generator=generator)
        self(gradients @ gradients.mT)

    def __call__(self, grams: Tensor) -> Tensor:
        on_host = grams.cpu()
        if not on_host.isfinite().all():  # an overflow: the plan skips the step, so that these have no effect
            return torch.ones_like(grams[:, 0])
        with calling(self._name), torch.no_grad():
            found = self._rule(on_host.clone())
        shape = list(on_host.shape[:2])
        if not isinstance(found, Tensor) or list(found.shape) != shape or not found.is_floating_point():
            given = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"{self._name}: it gave {given}, expected a floating-point tensor {shape}, a coefficient for each "
                "group and task"
            )
        if not found.isfinite().all():
            raise InputError(f"{self._name}: it gave coefficients that are not finite")
        return found.to(grams.device, grams.dtype) * self._scale


class _OnTheHost:
    """Applies a rule to one group after the other, on the CPU, where matrices of this size belong.

    A task without a gradient in a step, as batchings of one task a step leave most, is kept from the rule, whose least
    norm would be that of this zero: the others are weighted as if they were all, in the scale of the mean over all.
    carried: fp64 [groups, T, numbers] for a rule that goes on from what it found for the same group, else None;
    scale_free: see `RuleEntry`.
    """

    def __init__(self, rule: Callable[..., Tensor], carried: Tensor | None, *, scale_free: bool) -> None:
        self._rule, self.carried, self._scale_free = rule, carried, scale_free

    def __call__(self, grams: Tensor) -> Tensor:
        on_host = grams.cpu()
        if not on_host.isfinite().all():  # an overflow: the plan skips the step, so that these have no effect
            return torch.ones_like(grams[:, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the solvers warn about nearly every problem
            weights = torch.stack([self._of_group(group, gram) for group, gram in enumerate(on_host)])
        return weights.to(grams.device)

    def _of_group(self, group: int, gram: Tensor) -> Tensor:
        present = (gram.diagonal() > 0).nonzero().flatten()
        weights = torch.zeros_like(gram[0])
        if len(present) < 2:  # a lone gradient has nothing to be weighed against
            weights[present] = 1 / len(gram)
            return weights
        given = [gram[present][:, present]]
        if self._scale_free:
            given = [given[0] / given[0].diagonal().mean()]
        if self.carried is not None:
            given.append(self.carried[group, present])
        weights[present] = self._rule(*given).to(gram.dtype) * (len(present) / len(gram))
        if self.carried is not None:
            self.carried[group, present] = given[1]
        return weights


class NashMTL:
    """Nash-MTL, which asks for the gradients themselves, given some that have the same Gram matrix.

    It carries one number a task, from which its solver starts.
    """

    starts_from = (1.0,)

    def __init__(self) -> None:
        from torchjd import aggregation

        self._library: Any = aggregation
        self._weightings: dict[int, Any] = {}

    def __call__(self, gram: Tensor, start: Tensor) -> Tensor:
        """Weights [T] of a Gram matrix [T, T]; `start` [T, 1] is changed to what the next step starts from."""
        tasks = len(gram)
        if tasks not in self._weightings:
            self._weightings[tasks] = self._library.NashMTL(n_tasks=tasks).weighting
        weighting = self._weightings[tasks]
        values, vectors = torch.linalg.eigh(gram)
        # The library keeps a single start for all groups, and does not save it with the run.
        weighting.prvs_alpha = start[:, 0].numpy().copy()
        weights = weighting(vectors * values.clamp_min(0).sqrt())
        start[:, 0] = torch.from_numpy(weighting.prvs_alpha)
        return weights


class PCD:
    """PCD, which measures each gradient against a moving average of its squared norm.

    It carries that average of each task and the steps it is of: the library keeps one for whatever group comes next,
    forgets it between processes and whenever other tasks are there, and counts the same steps for all of them.
    """

    starts_from = (0.0, 0.0)

    def __init__(self) -> None:
        from torchjd import aggregation

        self._weighting = aggregation.PCDWeighting()

    def __call__(self, gram: Tensor, carried: Tensor) -> Tensor:
        """Weights [T] of a Gram matrix [T, T]; `carried` [T, 2], averages and steps, is brought up to date."""
        weighting, (average, steps), squares = self._weighting, carried.unbind(1), gram.diagonal()
        beta = weighting.beta
        steps += 1
        average.lerp_(squares, 1 - beta)
        unbiased = average / (1 - beta**steps)
        # The library will update the average it keeps, and correct its bias by the number of steps: it is given the
        # value whose update is `unbiased`, and so many steps that the correction is 1.
        weighting._sq_norm_ema = (unbiased - (1 - beta) * squares) / beta
        weighting._n_steps, weighting._state_key = torch.tensor(10**9), len(gram)
        return weighting(gram)
