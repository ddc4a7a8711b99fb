"""What the last call of surgery met and did: kept on the device, and read when it is asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concord.kernels.surgery.rules import cosines


@dataclass(frozen=True)
class SurgeryStatistics:
    """Of the parameters that surgery concerns, in the last call.

    Attributes:
        tasks: the tasks' names, in the order of everything below.
        absent: those that the call had no loss of.
        norms: of each task's gradient, free of the loss scale where the wrapper knows it.
        cosines: [T][T], of each pair of gradients; 0 where one of them is zero.
        conflicts: how many pairs have a negative cosine.
        coefficients: what the gradients were multiplied by in their sum; 1 everywhere is no surgery.
        change: the norm of what surgery added to the plain sum of the gradients, as a share of that sum's norm, which
            may be 0: infinity then.
    """

    tasks: tuple[str, ...]
    absent: tuple[str, ...]
    norms: tuple[float, ...]
    cosines: tuple[tuple[float, ...], ...]
    conflicts: int
    coefficients: tuple[float, ...]
    change: float


@dataclass(frozen=True)
class LastCall:
    """What `SurgeryStatistics` are made of, all of it on the device but the names.

    gram: fp64 [T, T]; coefficients: fp64 [T]; scale: what the losses were multiplied by, where that is known.
    """

    tasks: Sequence[str]
    absent: Sequence[str]
    gram: Tensor
    coefficients: Tensor
    scale: Tensor | None

    def read(self) -> SurgeryStatistics:
        """Wait for the device, and put it in numbers."""
        gram, coefficients = self.gram.cpu(), self.coefficients.cpu()
        scale = 1.0 if self.scale is None else self.scale.item()
        found = cosines(gram)
        change, plain = coefficients - 1, torch.ones_like(coefficients)
        # A difference of large numbers may come out below zero.
        norms = [((of @ gram @ of).clamp_min(0)).sqrt().item() for of in (change, plain)]
        return SurgeryStatistics(
            tasks=tuple(self.tasks),
            absent=tuple(self.absent),
            norms=tuple((gram.diagonal().sqrt() / scale).tolist()),
            cosines=tuple(map(tuple, found.tolist())),
            conflicts=int((found.tril(-1) < 0).sum()),
            coefficients=tuple(coefficients.tolist()),
            change=norms[0] / norms[1] if norms[1] else (math.inf if norms[0] else 0.0),
        )
