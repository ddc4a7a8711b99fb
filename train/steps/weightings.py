"""Which surgery a run has: our own rules, or one of TorchJD's, which see nothing but the Gram matrix either."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from concord.bert.errors import InputError
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.settings.config import LIBRARY_RULES, RunConfig
from concord.train.steps.optimizer import Weighting


def surgery_settings(config: RunConfig, *, scaling: bool) -> SurgerySettings:
    """What the configuration asks for. TorchJD's rules come in the scale of a mean, and are measured against it."""
    library = config.surgery in LIBRARY_RULES
    return SurgerySettings(
        method="given" if library else config.surgery,
        by_block=config.granularity != "model",
        private_norms=config.surgery_scope == "all",
        mean=library or config.reduction == "mean",
        gradvac_beta=config.gradvac_beta,
        max_norm=config.clip,
        scaling=scaling,
        weight_decay=config.weight_decay,
    )


def library_weighting(name: str, tasks: int, groups: int) -> Weighting | None:
    """TorchJD's rule of this name, for so many Gram matrices a step; None where the name is of one of our own.

    Raises InputError where TorchJD, or what the rule needs beside it, is not installed.
    """
    if name not in LIBRARY_RULES:
        return None
    try:
        from torchjd import aggregation

        rule = _RULES[name](aggregation)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--surgery {name}: needs pip install -e '.[rules]' ({reason})") from None
    carried = _CARRIED.get(name)
    start = None if carried is None else torch.tensor(carried, dtype=torch.float64).repeat(groups, tasks, 1)
    return _OnTheHost(rule, start)


def describe_surgery(config: RunConfig) -> str:
    """The run's surgery for its first lines."""
    if config.surgery == "none":
        return f"none (the {config.reduction} of the tasks' gradients)"
    if config.surgery in LIBRARY_RULES:
        return (
            f"{config.surgery} by {config.granularity}, in the scale of a mean (TorchJD, on the host: every step waits "
            "for the device)"
        )
    norms = "shared parameters" if config.surgery_scope == "shared" else "all parameters, heads included"
    return f"{config.surgery} by {config.granularity}, over {norms}, {config.reduction} of the projected gradients"


class _OnTheHost:
    """Applies a rule to one group after the other, on the CPU, where matrices of this size belong.

    A task without a gradient in a step, as batchings of one task a step leave most, is kept from the rule, whose least
    norm would be that of this zero: the others are weighted as if they were all, in the scale of the mean over all.
    carried: fp64 [groups, T, numbers] for a rule that goes on from what it found for the same group, else None.
    """

    def __init__(self, rule: Callable[..., Tensor], carried: Tensor | None) -> None:
        self._rule, self.carried = rule, carried

    def __call__(self, grams: Tensor) -> Tensor:
        on_host = grams.cpu()
        if not on_host.isfinite().all():  # an overflow: the plan skips the step, whatever stands here
            return torch.ones_like(grams[:, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solvers comment on every problem they are given
            weights = torch.stack([self._of_group(group, gram) for group, gram in enumerate(on_host)])
        return weights.to(grams.device)

    def _of_group(self, group: int, gram: Tensor) -> Tensor:
        present = (gram.diagonal() > 0).nonzero().flatten()
        weights = torch.zeros_like(gram[0])
        if len(present) < 2:  # nothing to weigh
            weights[present] = 1 / len(gram)
            return weights
        given = [gram[present][:, present]]
        if self.carried is not None:
            given.append(self.carried[group, present])
        weights[present] = self._rule(*given).to(gram.dtype) * (len(present) / len(gram))
        if self.carried is not None:
            self.carried[group, present] = given[1]
        return weights


class _NashMTL:
    """Nash-MTL, which asks for the gradients themselves, given some that have the same Gram matrix.

    It carries one number a task, from which its solver starts.
    """

    def __init__(self, library: Any) -> None:
        self._library, self._weightings = library, {}

    def __call__(self, gram: Tensor, start: Tensor) -> Tensor:
        tasks = len(gram)
        if tasks not in self._weightings:
            self._weightings[tasks] = self._library.NashMTL(n_tasks=tasks).weighting
        weighting = self._weightings[tasks]
        values, vectors = torch.linalg.eigh(gram)
        # The library keeps one start, whatever group comes next, and forgets it between processes.
        weighting.prvs_alpha = start[:, 0].numpy().copy()
        weights = weighting(vectors * values.clamp_min(0).sqrt())
        start[:, 0] = torch.from_numpy(weighting.prvs_alpha)
        return weights


class _PCD:
    """PCD, which measures each gradient against a moving average of its squared norm.

    It carries that average of each task and the steps it is of: the library keeps one for whatever group comes next,
    forgets it between processes and whenever other tasks are there, and counts the same steps for all of them.
    """

    def __init__(self, library: Any) -> None:
        self._weighting = library.PCDWeighting()

    def __call__(self, gram: Tensor, carried: Tensor) -> Tensor:
        weighting, (average, steps), squares = self._weighting, carried.unbind(1), gram.diagonal()
        beta = weighting.beta
        steps += 1
        average.lerp_(squares, 1 - beta)
        unbiased = average / (1 - beta**steps)
        # What the library, with a step more and of so many that it corrects no bias, makes this average of.
        weighting._sq_norm_ema = (unbiased - (1 - beta) * squares) / beta
        weighting._n_steps, weighting._state_key = torch.tensor(10**9), len(gram)
        return weighting(gram)


# The free numbers are those of each rule's authors.
_RULES: dict[str, Callable[[Any], Callable[..., Tensor]]] = {
    "upgrad": lambda library: library.UPGradWeighting(),
    "dualproj": lambda library: library.DualProjWeighting(),
    "mgda": lambda library: library.MGDAWeighting(),
    "cagrad": lambda library: library.CAGradWeighting(c=0.4),
    "alignedmtl": lambda library: library.AlignedMTLWeighting(),
    "imtlg": lambda library: library.IMTLGWeighting(),
    "fairgrad": lambda library: library.FairGradWeighting(alpha=2.0),
    "nashmtl": _NashMTL,
    "pcd": _PCD,
}
# What a task carries from step to step, at the start.
_CARRIED = {"nashmtl": [1.0], "pcd": [0.0, 0.0]}
