"""A rule of surgery in a loop: coefficients of one Gram matrix after the other, and what is carried between them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from concord.bert.errors import InputError
from concord.kernels.surgery.rules import random_orders, surgery_coefficients
from concord.train.settings.tables import RULES
from concord.train.steps.weightings import host_weighting, name_of_rule

_HIGHEST_SEED = (1 << 31) - 1


@contextmanager
def _in_python() -> Iterator[None]:
    """Within this context what the command line calls bad input is a ValueError."""
    try:
        yield
    except InputError as error:
        raise ValueError(str(error).removeprefix("--")) from error


class LoopRule:
    """Makes the coefficients of the tasks' gradients in their sum; 1 everywhere is no surgery.

    Args:
        rule: a name in `RULES`, "MODULE:FUNCTION", or a function (Gram matrices fp64 [groups, T, T] on the CPU) ->
            coefficients [groups, T].
        beta: of gradvac, how fast the averages follow the cosines.
        seed: of the random orders in which tasks meet.

    Attributes:
        name: of the rule.
        library: whether it is TorchJD's, in the scale of a mean.

    ValueError where there is no such rule, or it cannot be had, and where beta or the seed is out of range.
    """

    def __init__(self, rule: str | Callable[[Tensor], Tensor], *, beta: float | None, seed: int) -> None:
        self.name = name_of_rule(rule)
        self._rule = rule
        with _in_python():
            entry = RULES.entry(self.name) if isinstance(rule, str) else None
            self._on_device = entry is not None and entry.place == "device"
            self.library = entry is not None and entry.library
            if self.library:
                host_weighting(rule, 2, 1, mean=True)  # whether the library is there is said at once
        if beta is not None and self.name != "gradvac":
            raise ValueError(f"beta is gradvac's alone, the rule is {self.name}")
        if beta is not None and not (isinstance(beta, int | float) and 0 <= beta < 1):
            raise ValueError(f"beta {beta!r}: expected a number from 0, below 1")
        if not isinstance(seed, int) or not 0 <= seed <= _HIGHEST_SEED:
            raise ValueError(f"seed {seed!r}: expected a whole number from 0 to {_HIGHEST_SEED}")
        self._beta = 0.01 if beta is None else beta
        # Calls are counted in the lower 32 bits, so that runs with neighbouring seeds share no orders.
        self._order_seed = seed << 32
        self._targets: Tensor | None = None
        self._carried: Tensor | None = None
        self._weighting: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: the library's solvers are made anew."""
        return {**self.__dict__, "_carried": self._carries(), "_weighting": None}

    def _carries(self) -> Tensor | None:
        return self._carried if self._weighting is None else getattr(self._weighting, "carried", None)

    def same_on_all_ranks(self) -> tuple[str, float, int]:
        """What the ranks of a process group have to have in common, so that their coefficients are the same."""
        return self.name, self._beta, self._order_seed

    def state(self) -> dict[str, Any]:
        """All that goes on from call to call."""
        carried = self._carries()
        return {
            "rule": self.name,
            "order_seed": self._order_seed,
            "targets": None if self._targets is None else self._targets.clone(),
            "carried": None if carried is None else carried.clone(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; ValueError where it is another rule's."""
        if state["rule"] != self.name:
            raise ValueError(f"the state is that of the rule {state['rule']}, this one's is {self.name}")
        self._order_seed = state["order_seed"]
        self._targets, self._carried = (
            None if state[name] is None else state[name].clone() for name in ("targets", "carried")
        )
        self._weighting = None

    def next_call(self) -> None:
        """Begin a call, whose orders are other ones; once each, whether or not there is anything to merge."""
        self._order_seed += 1

    def __call__(self, gram: Tensor, scale: Tensor | None) -> Tensor:
        """Coefficients fp64 [T] on the Gram matrix's device; NaN where that is not finite, as after an overflow.

        gram: fp64 [T, T]; scale: what losses were multiplied by, None where that is not known: a rule on the host is
        then given the Gram matrix as it is. On the device nothing is read, and the scale cancels out.
        """
        found = self._device_rule(gram) if self._on_device else self._host_rule(gram, scale)
        return torch.where(torch.isfinite(gram).all(), found, torch.nan)

    def _device_rule(self, gram: Tensor) -> Tensor:
        seed = torch.tensor(self._order_seed).to(gram.device, non_blocking=True)
        before = self._targets
        if self.name == "gradvac":
            before = torch.zeros_like(gram)[None] if before is None else before.to(gram.device)
        found, targets = surgery_coefficients(gram[None], random_orders(seed, len(gram)), self.name, before, self._beta)
        if targets is not None:
            self._targets = torch.where(torch.isfinite(gram).all(), targets, before)
        return found[0]

    def _host_rule(self, gram: Tensor, scale: Tensor | None) -> Tensor:
        tasks = len(gram)
        with _in_python():
            if self._weighting is None:
                self._weighting = host_weighting(self._rule, tasks, 1, mean=self.library)
                if self._carried is not None:
                    self._weighting.carried.copy_(self._carried)
            weights = self._weighting((gram if scale is None else gram / scale.double() ** 2)[None])[0]
        return weights * tasks if self.library else weights
