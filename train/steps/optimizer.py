"""One optimizer step: Gram matrices -> plan -> combine + AdamW, with nothing read on the host."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import EllipsisType

import torch
from torch import Tensor

from concord.kernels.layout.flat import FlatParameters
from concord.kernels.surgery.adamw import combine_adamw_
from concord.kernels.surgery.gram import gram_matrix
from concord.kernels.surgery.plan import Rates, SurgeryPlan, SurgerySettings, new_surgery_state, plan_update
from concord.train.ranks.exchange import Exchange

_TIMES = 10  # how often the weights enter their moving average within its span
_BUFFERS = ("master", "momentum", "variance")
_SHARED = "shared."

Weighting = Callable[[Tensor], Tensor]  # fp64 [groups, T, T] Gram matrices -> fp64 [groups, T] coefficients


class SurgeryOptimizer:
    """AdamW on the gradients that surgery merges, for the shared and the private parameters.

    Args:
        shared: parameters with one gradient a task.
        private: parameters with one gradient, in blocks named by the task that uses them.
        tasks: the tasks' names, in the order of the task gradients.
        settings: of surgery, clipping, loss scale and AdamW.
        shared_rates, private_rates: peak learning rate of each block of the shared and of the private parameters, or
            one for all.
        weighting: gives the coefficients where the method is "given"; its result is taken as it is. A tensor in its
            attribute `carried`, which it changes from step to step, is a part of what is saved.
        exchange: with the other ranks of a run, of which each updates a piece of the shared parameters; None for a
            process that is alone.

    Attributes:
        state: counters, loss scale and statistics, see `SurgeryState`.
    """

    def __init__(
        self,
        shared: FlatParameters,
        private: FlatParameters,
        tasks: Sequence[str],
        *,
        settings: SurgerySettings,
        shared_rates: Sequence[float] | float,
        private_rates: Sequence[float] | float,
        weighting: Weighting | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self.shared, self.private = shared, private
        self._exchange = exchange or Exchange(shared)
        self._own = self._exchange.own
        self.settings, self.weighting = settings, weighting
        device = shared.compute.device
        blocks, heads = len(shared.block_names), len(private.block_names)
        self.state = new_surgery_state(settings, len(tasks), blocks, heads, device)
        owners = [list(tasks).index(name) for name in private.block_names]
        self._private_tasks = torch.tensor(owners, dtype=torch.int32, device=device)
        self._shared_rates, private = (
            torch.zeros(count, device=device) + torch.tensor(rates, device=device)
            for count, rates in ((blocks, shared_rates), (heads, private_rates))
        )
        # The tensors stay where they are: captured steps read them.
        self._rates = (self._shared_rates.clone(), private)
        self._all_frozen = False
        self._no_gram = torch.zeros(blocks, len(tasks), len(tasks), dtype=torch.float64, device=device)
        groups = blocks if settings.by_block else 1
        self._some_weights = torch.zeros(groups, len(tasks), dtype=torch.float64, device=device)
        self._average_steps = 0
        self._averages: list[Tensor] = []

    def freeze(self, blocks: Collection[str]) -> None:
        """From now on leave these blocks of the shared parameters as they are: their gradients are cleared, and the
        caller sees to it that none are deposited. Blocks that are not named are trained (again)."""
        self._exchange.settle()
        frozen = torch.tensor([name in blocks for name in self.shared.block_names], device=self._rates[0].device)
        self._rates[0].copy_(self._shared_rates.masked_fill(frozen, 0.0))
        self._all_frozen = bool(frozen.all())
        self.shared.gradients.zero_()

    @property
    def loss_scale(self) -> Tensor:
        """What losses are to be multiplied by before the backward: fp32 scalar on the device."""
        return self.state.loss_scale

    def zero_private_gradients(self) -> None:
        """Clear what autograd adds to; the task gradients are overwritten by the first micro-batch instead."""
        self.private.gradients.zero_()

    def zero_shared_gradients(self) -> None:
        """Clear the task gradients where no backward of a step has written any."""
        self.shared.gradients.zero_()

    def begin_last_backward(self) -> None:
        """The step's last backward of the encoder is about to begin: what it finishes may be sent to other ranks."""
        self._exchange.begin_last_backward()

    @torch.no_grad()
    def add_up(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Have the sums over the ranks of all gradients, and return those of `losses`, scalars by task. It precedes
        each step, whose weights are on their way to the ranks when it is over."""
        self._exchange.reduce(self.private, shared=not self._all_frozen)
        return self._exchange.total(losses)

    @torch.no_grad()
    def step(self, *, seed: Tensor, rate_factor: Tensor) -> SurgeryPlan:
        """Merge the gradients, which `add_up` has summed where there are ranks, and update all parameters, or skip both
        where a gradient is not finite.

        seed: int64 scalar, of the tasks' random orders in this step; rate_factor: fp32 scalar, by which both learning
        rates are multiplied. Returns what was done.
        """
        gram = self._no_gram if self._all_frozen else self._exchange.add_up(gram_matrix(self._own))
        private_squares = gram_matrix(self.private)[:, 0, 0]
        given = None
        if self.weighting is not None:
            given = self._exchange.decide(lambda: self._weights(gram, private_squares), self._some_weights)
        plan = plan_update(
            gram,
            private_squares,
            self._private_tasks,
            Rates(*self._rates, rate_factor),
            seed,
            self.settings,
            self.state,
            given,
        )
        for parameters, coefficients, step_sizes, shrinks in (
            (self._own, plan.coefficients, plan.step_sizes, plan.shrinks),
            (self.private, plan.private_coefficients, plan.private_step_sizes, plan.private_shrinks),
        ):
            if parameters is self._own and self._all_frozen:
                continue
            combine_adamw_(
                parameters,
                coefficients,
                factor=plan.factor,
                step_sizes=step_sizes,
                shrinks=shrinks,
                apply=plan.apply,
                beta1=self.settings.beta1,
                beta2=self.settings.beta2,
                epsilon=self.settings.epsilon,
            )
        if not self._all_frozen:
            self._exchange.publish_update()
        return plan

    def _weights(self, gram: Tensor, private_squares: Tensor) -> Tensor:
        """What `weighting` makes of the groups' Gram matrices, free of the loss scale; fp64 [groups, T].

        The plan multiplies by 1 / T where the settings ask for the mean, which statistics are measured against.
        """
        groups = gram if self.settings.by_block else gram.sum(0, keepdim=True)
        groups = groups / self.loss_scale.double() ** 2
        if self.settings.private_norms:
            squares = private_squares / self.loss_scale.double() ** 2
            groups = groups + torch.zeros_like(groups[0, 0]).index_add(0, self._private_tasks, squares).diag()
        weights = self.weighting(groups)
        return weights * gram.shape[1] if self.settings.mean else weights

    def keep_average(self, steps: int) -> None:
        """Keep a moving average of all weights over about the last `steps` steps, from the first step on."""
        self._average_steps = steps
        self._averages = [parameters.master.clone() for parameters in (self._own, self.private)]

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Take the weights after `step` steps of the run into their average, if it is kept.

        That is done ten times within its span, and so costs next to nothing, with a weight of a tenth; at first with
        one of 1 / n, so that the average is that of the n times so far. Before the first time it is the weights
        themselves.
        """
        if not self._averages:
            return
        interval = max(1, self._average_steps // _TIMES)
        if step < interval or step % interval == 0:
            weight = 1 / max(1, min(step // interval, self._average_steps // interval))
            for average, parameters in zip(self._averages, (self._own, self.private), strict=True):
                average.lerp_(parameters.master, weight)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the model has its averaged weights, if they are kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        self._exchange.settle()
        for average, parameters in zip(self._averages, (self._own, self.private), strict=False):
            weights = parameters.master.clone()
            parameters.master.copy_(average)
            average.copy_(weights)
        if self._averages:
            self._exchange.publish()

    def saved(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, weights included, as it lies in this process: name -> tensor."""
        tensors = self._of_shared() | self.state.tensors()
        for name in _BUFFERS:
            tensors[f"private.{name}"] = getattr(self.private, name)
        if self._averages:
            tensors["private.average"] = self._averages[1]
        carried = getattr(self.weighting, "carried", None)
        if carried is not None:
            tensors["weighting.carried"] = carried
        return tensors

    def _of_shared(self) -> dict[str, Tensor]:
        """Those that are pieces where there are ranks."""
        tensors = {f"{_SHARED}{name}": getattr(self._own, name) for name in _BUFFERS}
        return tensors | ({f"{_SHARED}average": self._averages[0]} if self._averages else {})

    def saved_like(self) -> dict[str, Tensor]:
        """Tensors of the names, shapes and dtypes that a state has, without values: the same whatever ranks there
        are."""
        shared, size = self._of_shared(), self._exchange.size
        return {
            name: torch.empty(size if name in shared else tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in self.saved().items()
        }

    def saved_parts(self) -> Iterator[tuple[str, slice | EllipsisType, Tensor]]:
        """What a state holds, part by part: name, elements, and their values. All ranks have to ask for all parts, of
        which the first alone is given those that lie with the others."""
        shared = self._of_shared()
        yield from self._exchange.whole(shared)
        for name, tensor in self.saved().items():
            if name not in shared:
                yield name, ..., tensor

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Put back what `saved_parts` gave. The caller has checked names and shapes against `saved_like()`.

        tensors: None on all ranks but the first, which has read them.
        """
        shared = self._of_shared()
        for name, target in self.saved().items():
            take = self._exchange.take if name in shared else self._exchange.take_same
            take(target, None if tensors is None else tensors[name])
        self._exchange.publish()

    def gather_master(self) -> None:
        """Have all weights of the model in fp32 where it is about to be written or read: on the first rank."""
        self._exchange.gather_master()

    @torch.no_grad()
    def spread_master(self, others: Iterable[Tensor] = ()) -> None:
        """Have all ranks take the weights that the first has read into the model, and what else it has read."""
        self._exchange.spread_master()
        for tensor in (self.private.master, *others):
            self._exchange.take_same(tensor, tensor)
