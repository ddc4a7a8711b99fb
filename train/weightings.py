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


def library_weighting(name: str, tasks: int) -> Weighting | None:
    """TorchJD's rule of this name; None where the name is of one of our own.

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
    return _OnTheHost(rule)


def describe_surgery(config: RunConfig) -> str:
    """The run's surgery for its first lines."""
    if config.surgery == "none":
        return "none (the sum of the tasks' gradients)"
    if config.surgery in LIBRARY_RULES:
        return f"{config.surgery} by {config.granularity} (TorchJD, on the host: every step waits for the device)"
    norms = "shared parameters" if config.surgery_scope == "shared" else "all parameters, heads included"
    return f"{config.surgery} by {config.granularity}, over {norms}, {config.reduction} of the projected gradients"


class _OnTheHost:
    """Applies a rule to one group after the other, on the CPU, where matrices of this size belong."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        self._rule = rule

    def __call__(self, grams: Tensor) -> Tensor:
        on_host = grams.cpu()
        if not on_host.isfinite().all():  # an overflow: the plan skips the step, whatever stands here
            return torch.ones_like(grams[:, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solvers comment on every problem they are given
            weights = torch.stack([self._rule(gram).to(gram.dtype) for gram in on_host])
        return weights.to(grams.device)


class _OfMatrix:
    """A rule that asks for the gradients themselves, given some that have the same Gram matrix."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        self._rule = rule

    def __call__(self, gram: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        return self._rule(vectors * values.clamp_min(0).sqrt())


# The free numbers are those of each rule's authors.
_RULES: dict[str, Callable[[Any, int], Callable[[Tensor], Tensor]]] = {
    "upgrad": lambda library, tasks: library.UPGradWeighting(),
    "dualproj": lambda library, tasks: library.DualProjWeighting(),
    "mgda": lambda library, tasks: library.MGDAWeighting(),
    "cagrad": lambda library, tasks: library.CAGradWeighting(c=0.4),
    "alignedmtl": lambda library, tasks: library.AlignedMTLWeighting(),
    "imtlg": lambda library, tasks: library.IMTLGWeighting(),
    "fairgrad": lambda library, tasks: library.FairGradWeighting(alpha=2.0),
    "nashmtl": lambda library, tasks: _OfMatrix(library.NashMTL(n_tasks=tasks).weighting),
    "pcd": lambda library, tasks: library.PCDWeighting(),
}
