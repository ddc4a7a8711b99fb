"""Losses and heads of the user's own: what they say of themselves, tried on made-up numbers, one line for a fault.

A head is (HeadSpec) -> TaskHead. A loss is (logits, labels, task) -> fp32 scalar, the mean over the examples, or, where
it has the attribute `of_pairs`, (Pairs) -> fp32 scalar, the mean over the pairs. Other attributes that it may have:
`link` and `squared_error`, see `concord.train.settings.tables.LossEntry`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from concord.bert.errors import InputError, shown
from concord.bert.heads import HeadSpec, Link, TaskHead
from concord.bert.tables import find_own
from concord.kernels.dropout import DropoutStream
from concord.train.data.tasks import Task
from concord.train.objectives.pairs import Pairs
from concord.train.settings.own import calling

_TRIED = 6  # examples that a loss or a head is tried on
_WIDTH = 8  # of the embeddings that a loss of pairs is tried on


@dataclass(frozen=True)
class OwnLoss:
    """A function of the user's own, which is called with a check of what it gives.

    Attributes:
        name: MODULE:FUNCTION, as the settings give it.
        function: what it names.
        link: what makes answers of the logits that it trains; None for what suits the task's kind.
        squared_error: whether it stands for a Gaussian's likelihood.
        of_pairs: whether it takes `Pairs` instead of logits.
    """

    name: str
    function: Callable[..., Any]
    link: Link | None
    squared_error: bool
    of_pairs: bool

    def __call__(self, *inputs: Any) -> Tensor:
        """The loss of a micro-batch, fp32 scalar; InputError where it fails or gives anything else."""
        with calling(self.name):
            value = self.function(*inputs)
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{self.name}: it gave {found}, expected one number, a floating-point tensor of shape []")
        return value.float()


def own_loss(name: str) -> OwnLoss:
    """The loss MODULE:FUNCTION; InputError where it is not to be had or says of itself what no loss can be."""
    function = find_own(name)
    link = getattr(function, "link", None)
    if link is not None and link not in get_args(Link):
        raise InputError(f"{name}: its link is {link!r}, expected one of {', '.join(get_args(Link))}")
    flags = {flag: getattr(function, flag, False) for flag in ("squared_error", "of_pairs")}
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise InputError(f"{name}: its {flag} is {value!r}, expected True or False")
    return OwnLoss(name, function, link, **flags)


def try_loss(name: str, task: Task, outputs: int) -> None:
    """Call a loss of logits with made-up ones, so that what is wrong is said before anything is trained.

    outputs: logits of the task. InputError where it fails, is no finite number that depends on the logits, or is a sum.
    """
    loss = own_loss(name)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(_TRIED, outputs, generator=generator).requires_grad_()
    labels = torch.linspace(task.low, task.high, _TRIED)
    labels = labels if task.kind == "regression" else labels.round()
    value = loss(logits, labels, task)
    _check_gradient(name, value, logits)
    with torch.no_grad():
        twice = loss(logits.repeat(2, 1), labels.repeat(2), task)
    if value != 0 and torch.isclose(twice, 2 * value, rtol=1e-4, atol=0.0):
        raise InputError(f"{name}: it is twice as large where each example is given twice; expected a mean, not a sum")


def try_pair_loss(name: str) -> None:
    """The same of a loss of pairs' embeddings; InputError where it fails or is no finite number that depends on
    them."""
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2 * _TRIED, _WIDTH, generator=generator).requires_grad_()
    pairs = Pairs(
        first=embeddings[0::2],
        second=embeddings[1::2],
        shares=torch.linspace(0, 1, _TRIED),
        margin=0.0,
        epoch=torch.tensor(0.0),
        dropouts=DropoutStream(torch.tensor(1)),
    )
    _check_gradient(name, own_loss(name)(pairs), embeddings)


def own_head(name: str) -> Callable[[HeadSpec], TaskHead]:
    """The head MODULE:FUNCTION, which is tried as it is built, and checked whenever it is called.

    InputError where it is not to be had, fails, has a state that would not be saved, or gives anything else than logits
    of the shape that the losses take.
    """
    function = find_own(name)

    def build(spec: HeadSpec) -> TaskHead:
        with calling(name), torch.no_grad():
            head = function(spec)
            if not isinstance(head, TaskHead):
                raise InputError(f"{name}: it gave a {type(head).__name__}, expected a concord.bert.heads.TaskHead")
            _check_state(name, head)
            head.forward = _OwnForward(name, head.forward, spec.outputs, spec.pair)
            head(torch.zeros(_TRIED * (2 if spec.pair else 1), spec.hidden_size), None)
        return head

    return build


@dataclass(frozen=True)
class _OwnForward:
    """The forward of a head of the user's own, with a check of what it gives.

    name: MODULE:FUNCTION; function: the forward; outputs, pair: of the head's `HeadSpec`.
    """

    name: str
    function: Callable[[Tensor, DropoutStream | None], Any]
    outputs: int
    pair: bool

    def __call__(self, pooled: Tensor, dropouts: DropoutStream | None) -> Tensor:
        """Logits, see `TaskHead.forward`; InputError where it fails or gives anything else."""
        with calling(self.name):
            logits = self.function(pooled, dropouts)
        expected = [len(pooled) // (2 if self.pair else 1), self.outputs]
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            found = f"{logits.dtype}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(f"{self.name}: its logits are {found}, expected a floating-point tensor {expected}")
        if list(logits.shape) != expected:
            raise InputError(f"{self.name}: its logits are {list(logits.shape)}, expected {expected}")
        return logits


def _check_state(name: str, head: TaskHead) -> None:
    """InputError where a head has a state besides its parameters and the threshold: a run saves none, and the ranks do
    not exchange any."""
    known = {"threshold", *(parameter for parameter, _ in head.named_parameters(remove_duplicate=False))}
    others = [shown(tensor) for tensor in head.state_dict() if tensor not in known]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(
            f"{name}: its buffer {others[0]}{more} would not be saved with a run's state; expected parameters, or "
            "constants that __init__ makes anew: register_buffer(..., persistent=False)"
        )


def _check_gradient(name: str, value: Tensor, inputs: Tensor) -> None:
    if not value.requires_grad:
        raise InputError(f"{name}: what it gave has no gradient, expected a number that depends on what is trained")
    with calling(name):
        (gradient,) = torch.autograd.grad(value, inputs, allow_unused=True)
    if gradient is None or not (value.isfinite() and gradient.isfinite().all()):
        raise InputError(
            f"{name}: on made-up numbers it gave {value.item():g}"
            + (" without a gradient" if gradient is None else ", or a gradient, that is not finite")
        )
