"""Gradient surgery for any model and any optimizer of torch: PCGrad and GradVac as wrappers around the optimizer.

Each loss has a backward pass of its own. Dot products are taken once, of the original gradients; what surgery does to
them is worked out in the Gram matrix, and the merged gradient is one combination of the originals, added to `.grad`.
Nothing is read on the host.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from concord.kernels.surgery.multi_tensor import combine_tensors, gram_of_tensors
from concord.kernels.surgery.rules import MOST_TASKS, random_orders, surgery_coefficients

REDUCTIONS = ("mean", "sum")
SCOPES = ("shared", "all")


class _GradientSurgery:
    """What both wrappers share; `_method` is that of `surgery_coefficients`."""

    _method: str
    _beta = 0.0

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        reduction: str = "mean",
        scope: str = "shared",
        seed: int = 0,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")
        if scope not in SCOPES:
            raise ValueError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
        self._optimizer = optimizer
        self._mean = reduction == "mean"
        self._spans_all = scope == "all"
        self._scaler = scaler
        # Calls are counted in the lower 32 bits, so that runs with neighbouring seeds share no orders.
        self._order_seed = (seed & 0x7FFFFFFF) << 32
        self._targets: Tensor | None = None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The wrapped optimizer, for learning-rate schedulers."""
        return self._optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's parameter groups."""
        return self._optimizer.param_groups

    def zero_grad(self) -> None:
        """Forget the gradients, as the wrapped optimizer does."""
        self._optimizer.zero_grad()

    def pc_backward(self, losses: Sequence[Tensor]) -> None:
        """Add the merged gradient of the tasks to the `.grad` of the optimizer's parameters.

        losses: one scalar a task, 1 to 16 of them, in the same order every time; their graphs are freed. A parameter
        that no loss reaches is left alone. Called several times before `step`, merged gradients add up. ValueError
        where losses are too few, too many or no scalars, or where no parameter requires a gradient.
        """
        losses = list(losses)
        if not 1 <= len(losses) <= MOST_TASKS:
            raise ValueError(f"{len(losses)} losses: surgery takes 1 to {MOST_TASKS}")
        for task, loss in enumerate(losses):
            if loss.numel() != 1:
                raise ValueError(f"loss {task} has shape {list(loss.shape)}: expected a scalar")
        parameters = [
            parameter for group in self.param_groups for parameter in group["params"] if parameter.requires_grad
        ]
        if not parameters:
            raise ValueError("no parameter of the optimizer requires a gradient")
        if self._targets is not None and len(self._targets[0]) != len(losses):
            raise ValueError(f"{len(losses)} losses: the targets so far are those of {len(self._targets[0])}")
        if self._scaler is not None:
            losses = [self._scaler.scale(loss) for loss in losses]
        by_task = [
            torch.autograd.grad(loss, parameters, retain_graph=task + 1 < len(losses), allow_unused=True)
            for task, loss in enumerate(losses)
        ]
        by_parameter = {
            parameter: own
            for parameter, *own in zip(parameters, *by_task, strict=True)
            if any(gradient is not None for gradient in own)
        }
        self._order_seed += 1
        if by_parameter:
            self._add_merged(list(by_parameter), list(by_parameter.values()))

    @torch.no_grad()
    def _add_merged(self, parameters: list[Tensor], gradients: list[list[Tensor | None]]) -> None:
        tasks = len(gradients[0])
        everywhere = [all(gradient is not None for gradient in own) for own in gradients]
        participating = [own for own, shared in zip(gradients, everywhere, strict=True) if shared or self._spans_all]
        coefficients = torch.ones(tasks, dtype=torch.float64, device=parameters[0].device)
        if participating:
            coefficients = self._coefficients(gram_of_tensors(participating))
        shared_row = coefficients / tasks if self._mean else coefficients
        other_row = coefficients if self._spans_all else torch.ones_like(coefficients)
        rows = torch.stack([shared_row if shared else other_row for shared in everywhere])
        for parameter, merged in zip(parameters, combine_tensors(gradients, rows), strict=True):
            if parameter.grad is None:
                parameter.grad = merged
            else:
                parameter.grad += merged

    def _coefficients(self, gram: Tensor) -> Tensor:
        """fp64 [T], and the targets advance unless a gradient is not finite."""
        seed = torch.tensor(self._order_seed).to(gram.device, non_blocking=True)
        orders = random_orders(seed, len(gram))
        before = self._targets
        if self._method == "gradvac":
            before = torch.zeros_like(gram)[None] if before is None else before.to(gram.device)
        rows, targets = surgery_coefficients(gram[None], orders, self._method, before, self._beta)
        if targets is not None:
            self._targets = torch.where(torch.isfinite(gram).all(), targets, before)
        return rows[0]

    def step(self) -> None:
        """The wrapped optimizer's step; with a scaler, the scaler's, which skips it after an overflow."""
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on as if uninterrupted; a scaler's state is the scaler's to save."""
        return {"optimizer": self._optimizer.state_dict(), "order_seed": self._order_seed, "targets": self._targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._order_seed, self._targets = state["order_seed"], state["targets"]


class PCGrad(_GradientSurgery):
    """PCGrad (Yu et al., 2020): where two tasks' gradients conflict, each loses its part along the other.

    >>> import torch
    >>> from train.surgery import PCGrad
    >>> trunk, heads = torch.nn.Linear(8, 16), torch.nn.ModuleList([torch.nn.Linear(16, 1), torch.nn.Linear(16, 1)])
    >>> optimizer = PCGrad(torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.01))
    >>> inputs, targets = torch.randn(32, 8), torch.randn(2, 32, 1)
    >>> for step in range(100):
    ...     features = trunk(inputs).relu()
    ...     losses = [(head(features) - target).square().mean() for head, target in zip(heads, targets)]
    ...     optimizer.zero_grad()
    ...     optimizer.pc_backward(losses)
    ...     optimizer.step()

    Args:
        optimizer: any optimizer, over the parameters of all tasks, on one device; gradients are dense.
        reduction: whether a parameter that all losses reach gets the mean or the sum of the projected gradients.
        scope: "shared": surgery concerns the parameters that all losses reach, and others get the sum of the gradients
            they have; "all": dot products span all parameters, and all are scaled alike.
        seed: of the random orders in which tasks meet.
        scaler: multiplies the losses; `step` then steps and updates it.
    """

    _method = "pcgrad"


class GradVac(_GradientSurgery):
    """GradVac (Wang et al., 2021): two tasks' gradients are brought up to the cosine that they have had on average.

    Used like `PCGrad`, and takes what that takes; beta: how fast the averages follow the cosines.
    """

    _method = "gradvac"

    def __init__(self, optimizer: torch.optim.Optimizer, *, beta: float = 0.01, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self._beta = beta
