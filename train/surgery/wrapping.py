"""An optimizer in every respect around another: its groups, state, hooks, checkpoints, copies, and loss scaling."""

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState

_SCALED = ("grad_scale", "found_inf")  # what GradScaler sets on an optimizer that does its unscaling itself
_STATE = "surgery"  # the key of what a wrapper adds to the state of its optimizer


def check_wrappable(optimizer: torch.optim.Optimizer) -> None:
    """TypeError that says why surgery cannot be done for an optimizer of this kind."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"expected an optimizer of torch to wrap, it is a {kind}")
    if isinstance(optimizer, WrappedOptimizer):
        raise TypeError(f"the optimizer is a {kind} already: surgery is done once")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(f"{kind} evaluates the losses several times within a step: surgery cannot be done for it")
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise TypeError(f"{kind} takes sparse gradients alone, surgery gives dense ones")


class WrappedOptimizer(torch.optim.Optimizer):
    """What is seen of the wrapped optimizer, and passed on to it.

    Groups, state and defaults are the wrapped optimizer's own, so that schedulers and trainers may be given either of
    the two. Hooks that are registered here concern the calls made here.

    Args:
        optimizer: the one to wrap.
        scaler: multiplies the losses of `scaled_losses`; it knows wrapper and wrapped as one.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        check_wrappable(optimizer)
        # The base class's constructor would begin a state of its own; this makes hooks alone, as in an unpickled one.
        self.__setstate__({"_optimizer": optimizer, "_scaler": scaler})

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The wrapped optimizer."""
        return self._optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's parameter groups."""
        return self._optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The wrapped optimizer's state."""
        return self._optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self._optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The wrapped optimizer's defaults."""
        return self._optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self._optimizer.defaults = defaults

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: like torch's own optimizers, all but the hooks, and `step` as the class has it,
        which schedulers replace."""
        left_out = ("_optimizer_", "_zero_grad_profile_name", "step", *_SCALED)
        return {name: value for name, value in self.__dict__.items() if not name.startswith(left_out)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "WrappedOptimizer":
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer's."""
        self._optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, as the wrapped optimizer does."""
        self._optimizer.zero_grad(set_to_none=set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The wrapped optimizer's step, and what the closure gives.

        closure: computes the losses and calls `pc_backward`, before the step. With `scaler=` the step is the scaler's,
        which skips it after an overflow and is updated; in `scaler.step(wrapper)` updating it is left to the caller.
        """
        scaled = {name: self.__dict__[name] for name in _SCALED if name in self.__dict__}
        if self._scaler is not None and self._scaler.is_enabled():
            return self._scaled_step(closure, update=not scaled)
        # What the scaler says to an optimizer that does its unscaling itself is for the one that does.
        for name, value in scaled.items():
            setattr(self._optimizer, name, value)
        try:
            return self._optimizer.step() if closure is None else self._optimizer.step(closure)
        finally:
            for name in scaled:
                delattr(self._optimizer, name)

    def _scaled_step(self, closure: Callable[[], Any] | None, *, update: bool) -> Any:
        found = None
        if closure is not None:  # which the scaler does not take
            with torch.enable_grad():
                found = closure()
        self._join_in_scaler()
        if update:
            self._check_alone_in_scaler()
        self._scaler.step(self._optimizer)
        if update:
            self._scaler.update()
        return found

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What GradScaler asks: whether `step` is to be called with gradients that are scaled still.

        An optimizer whose step takes the scaler itself is not told of it here, so that the scaler does the unscaling.
        """
        if self._scaler is not None:
            return True
        takes_scaler = "grad_scaler" in inspect.signature(self._optimizer.step).parameters
        return getattr(self._optimizer, "_step_supports_amp_scaling", False) and not takes_scaler

    def _join_in_scaler(self) -> None:
        """Have the scaler keep one record for wrapper and wrapped: what is unscaled as the one is so as the other."""
        if self._scaler is not None and self._scaler.is_enabled():
            records = self._scaler._per_optimizer_states
            mine, inner = id(self), id(self._optimizer)
            records[inner if mine in records else mine] = records[mine if mine in records else inner]

    def _check_alone_in_scaler(self) -> None:
        """RuntimeError where another wrapper's gradients wait to be divided by the scale, which is to be updated."""
        records = self._scaler._per_optimizer_states
        if any(record["stage"] is OptState.READY for record in records.values() if record is not records[id(self)]):
            raise RuntimeError(
                "another optimizer has gradients of the same scaler: call scaler.step of each, and scaler.update() once"
            )

    def _scale(self, loss: Tensor) -> Tensor:
        self._join_in_scaler()
        return loss if self._scaler is None else self._scaler.scale(loss)

    def _known_scale(self, device: torch.device) -> Tensor | None:
        """What `_scale` multiplies by, on the device; None where that is left to the user."""
        if self._scaler is None or not self._scaler.is_enabled():
            return None
        return self._scaler.scale(torch.ones((), device=device))

    def _surgery_state(self) -> dict[str, Any]:
        """What a wrapper adds to the state; the subclass's to say."""
        raise NotImplementedError

    def _load_surgery_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `_surgery_state` gave."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, which that may load too, and under "surgery" what surgery goes on from.

        A scaler's state is the scaler's to save.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state = {**self._optimizer.state_dict(), _STATE: self._surgery_state()}
        for hook in self._optimizer_state_dict_post_hooks.values():
            state = _replaced(hook(self, state), state)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; from a plain optimizer's state too, and then a warning says so.

        ValueError where it is neither, or another rule's.
        """
        state = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state = _replaced(hook(self, state), state)
        if "param_groups" not in state:
            raise ValueError(f"the state has {', '.join(map(str, state))}: expected that of an optimizer of torch")
        surgery = state.pop(_STATE, None)
        if surgery is not None:
            self._load_surgery_state(surgery)
        self._optimizer.load_state_dict(state)
        if surgery is None:
            warnings.warn(
                f"{type(self).__name__}: the state is that of a plain optimizer; surgery goes on as it is, with the "
                "random orders and averages that it has here",
                stacklevel=2,
            )
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)


def _replaced(found: Any, before: Any) -> Any:
    """What a hook gave, where it gave something."""
    return before if found is None else found
