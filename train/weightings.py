"""Which surgery a run has: our own rules, or one of TorchJD's, which see nothing but the Gram matrix either."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bert.errors import InputError
from kernels import SurgerySettings
from train.config import LIBRARY_RULES, RunConfig
from train.optimizer import Weighting


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

        rule = _RULES[name](aggregation, tasks)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--surgery {name}: needs pip install 'concord-bert[rules]' ({reason})") from None
    return _OnTheHost(rule, torch.ones(groups, tasks, dtype=torch.float64) if name in _WARM_STARTED else None)


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

    carried: fp64 [groups, T] for a rule that starts from what it found for the same group a step before, else None.
    """

    def __init__(self, rule: Callable[..., Tensor], carried: Tensor | None) -> None:
        self._rule, self.carried = rule, carried

    def __call__(self, grams: Tensor) -> Tensor:
        on_host = grams.cpu()
        if not on_host.isfinite().all():  # an overflow: the plan skips the step, whatever stands here
            return torch.ones_like(grams[:, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solvers comment on every problem they are given
            given = zip(on_host) if self.carried is None else zip(on_host, self.carried, strict=True)
            weights = torch.stack([self._rule(*group).to(grams.dtype) for group in given])
        return weights.to(grams.device)


class _NashMTL:
    """Nash-MTL, which asks for the gradients themselves, given some that have the same Gram matrix."""

    def __init__(self, library: Any, tasks: int) -> None:
        self._weighting = library.NashMTL(n_tasks=tasks).weighting

    def __call__(self, gram: Tensor, start: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        # The library keeps one start, whatever group comes next, and forgets it between processes.
        self._weighting.prvs_alpha = start.numpy().copy()
        weights = self._weighting(vectors * values.clamp_min(0).sqrt())
        start.copy_(torch.from_numpy(self._weighting.prvs_alpha))
        return weights


# The free numbers are those of each rule's authors.
_RULES: dict[str, Callable[[Any, int], Callable[..., Tensor]]] = {
    "upgrad": lambda library, tasks: library.UPGradWeighting(),
    "dualproj": lambda library, tasks: library.DualProjWeighting(),
    "mgda": lambda library, tasks: library.MGDAWeighting(),
    "cagrad": lambda library, tasks: library.CAGradWeighting(c=0.4),
    "alignedmtl": lambda library, tasks: library.AlignedMTLWeighting(),
    "imtlg": lambda library, tasks: library.IMTLGWeighting(),
    "fairgrad": lambda library, tasks: library.FairGradWeighting(alpha=2.0),
    "nashmtl": _NashMTL,
    "pcd": lambda library, tasks: library.PCDWeighting(),
}
_WARM_STARTED = {"nashmtl"}
