"""The modes of --batching: which tasks each step holds, and how many examples of each.

Each is (sizes, BatchConfig) -> Sampler, and a line in `concord.train.settings.tables`; sizes: task -> number of
training examples, in the order in which tasks take turns.
"""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate as running_sums

import numpy as np

from concord.bert.errors import InputError
from concord.bert.tables import is_own
from concord.train.data.own_sampler import OwnSampler
from concord.train.data.sampler import JointSampler, Sampler
from concord.train.settings.own import calling
from concord.train.settings.parts import BatchConfig
from concord.train.settings.tables import BATCHINGS


def build_sampler(config: BatchConfig, sizes: Mapping[str, int]) -> Sampler:
    """The sampler that `config` asks for.

    sizes: task -> number of training examples, in the order in which tasks take turns. InputError where a set is empty,
    --steps-per-epoch does not suffice for a step of each task, or a batching of the user's own fails or gives steps
    that cannot be trained, see `OwnSampler`.
    """
    name, make = config.batching, BATCHINGS.resolve(config.batching)
    if not is_own(name):
        return make(sizes, config)
    with calling(name):
        sampler = make(sizes, config)
    return OwnSampler(name, sampler, sizes)


def joint(sizes: Mapping[str, int], config: BatchConfig) -> Sampler:
    """A batch of every task in each step, all of one size."""
    return _joint(sizes, config, dict.fromkeys(sizes, config.batch_size))


def proportional(sizes: Mapping[str, int], config: BatchConfig) -> Sampler:
    """The same with batches in proportion to the sets."""
    return _joint(sizes, config, divide_in_proportion(len(sizes) * config.batch_size, sizes))


def alternate(sizes: Mapping[str, int], config: BatchConfig) -> Sampler:
    """One task a step, in turn."""
    return AlternateSampler(
        sizes,
        batch_size=weighted(dict.fromkeys(sizes, config.batch_size), config),
        accumulate=config.accumulate,
        seed=config.seed,
        until=config.until,
        steps_per_epoch=config.steps_per_epoch,
    )


def sequential(sizes: Mapping[str, int], config: BatchConfig) -> Sampler:
    """One set after the other."""
    return SequentialSampler(
        sizes,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=config.seed,
        steps_per_epoch=config.steps_per_epoch,
    )


def annealed(sizes: Mapping[str, int], config: BatchConfig) -> Sampler:
    """One task a step, drawn by the sets' sizes at first and nearly evenly at the end."""
    return AnnealedSampler(
        sizes,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=config.seed,
        epochs=config.epochs,
        steps_per_epoch=config.steps_per_epoch,
    )


def _joint(sizes: Mapping[str, int], config: BatchConfig, batch_size: Mapping[str, int]) -> Sampler:
    return JointSampler(
        sizes,
        batch_size=weighted(batch_size, config),
        accumulate=config.accumulate,
        seed=config.seed,
        until=config.until,
        steps_per_epoch=config.steps_per_epoch,
    )


def weighted(batch_size: Mapping[str, int], config: BatchConfig) -> dict[str, int]:
    """Examples of each task in a batch, as often as its sampling weight says, at least one."""
    return {task: max(1, round(size * config.sampling_weights[task])) for task, size in batch_size.items()}


class AlternateSampler(Sampler):
    """Round-robin: one task a step. An epoch has as many rounds as a joint one has steps, and reads the same examples.

    With `steps_per_epoch` it has that many steps, not rounds; the next epoch goes on with the task whose turn it is.
    Arguments as those of `JointSampler`.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int | Mapping[str, int],
        accumulate: int,
        seed: int,
        until: str = "largest",
        steps_per_epoch: int = 0,
    ) -> None:
        super().__init__(sizes, batch_size=batch_size, accumulate=accumulate, seed=seed)
        self._joint = JointSampler(sizes, batch_size=batch_size, accumulate=accumulate, seed=seed, until=until)
        self._tasks, self._whole_sets = list(sizes), not steps_per_epoch
        self.steps_per_epoch = steps_per_epoch or len(sizes) * self._joint.steps_per_epoch

    def _examples(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        if self._whole_sets:
            turn, place = divmod(step, len(self._tasks))
            task = self._tasks[place]
            return {task: self._joint.task_examples(task, epoch, turn)}
        turn, place = divmod(epoch * self.steps_per_epoch + step, len(self._tasks))
        task = self._tasks[place]
        return {task: self._going_on(task, turn)}


class SequentialSampler(Sampler):
    """One data set after another, each once an epoch.

    With `steps_per_epoch` these steps are divided among the sets in proportion to their sizes, at least one each, and
    each set goes on where its part of the epoch before left off. InputError where they are fewer than the sets.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, batch_size: int, accumulate: int, seed: int, steps_per_epoch: int = 0
    ) -> None:
        super().__init__(sizes, batch_size=batch_size, accumulate=accumulate, seed=seed)
        if 0 < steps_per_epoch < len(sizes):
            raise InputError(
                f"--steps-per-epoch {steps_per_epoch}: expected at least {len(sizes)} with --batching sequential, "
                "one a task"
            )
        self._tasks, self._whole_sets = list(sizes), not steps_per_epoch
        steps = divide_in_proportion(steps_per_epoch, sizes) if steps_per_epoch else None
        self._steps = [steps[task] if steps else self._steps_through(task) for task in sizes]
        self._first_steps = [0, *running_sums(self._steps)]
        self.steps_per_epoch = self._first_steps[-1]

    def _examples(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        place = bisect_right(self._first_steps, step) - 1
        task, step = self._tasks[place], step - self._first_steps[place]
        if self._whole_sets:
            return {task: self._once(task, epoch, step)}
        return {task: self._going_on(task, epoch * self._steps[place] + step)}


class AnnealedSampler(Sampler):
    """One task a step, drawn with probability proportional to size^alpha; each set goes on where it left off.

    Alpha falls from 1 in the first epoch to 0.2 in the last, so that at first tasks weigh as their sets, at the end
    nearly the same: the annealed sampling of Stickland and Murray 2019 (BERT and PALs).

    Args:
        epochs: of the run.
        steps_per_epoch: 0 for as many as all sets have batches (of all micro-batches of a step) together.
        sizes, batch_size, accumulate, seed: see `Sampler`.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        epochs: int,
        steps_per_epoch: int = 0,
    ) -> None:
        super().__init__(sizes, batch_size=batch_size, accumulate=accumulate, seed=seed)
        self._epochs = epochs
        self.steps_per_epoch = steps_per_epoch or sum(self._steps_through(task) for task in sizes)
        self._tasks = list(sizes)
        self._draws: list[tuple[np.ndarray, np.ndarray]] = []
        self._drawn = np.zeros(len(sizes), dtype=np.int64)

    def probabilities(self, epoch: int) -> np.ndarray:
        """Of each task to be drawn in a step of `epoch` (from 0), float64 [tasks]."""
        alpha = 1 - 0.8 * epoch / max(1, self._epochs - 1)
        weights = np.array(list(self._sizes.values()), dtype=np.float64) ** alpha
        return weights / weights.sum()

    def _examples(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        places, turns = self._draws_of(epoch)
        task = self._tasks[places[step]]
        return {task: self._going_on(task, int(turns[step]))}

    def _draws_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each step of `epoch`: the place of its task, and how often the run has drawn that task before, int64."""
        # A resumed run draws the earlier epochs again: where each set goes on depends on how often it was drawn.
        while len(self._draws) <= epoch:
            drawn_epoch, count = len(self._draws), len(self._tasks)
            # The tasks' permutations are seeded by their numbers, so this generator takes the next number.
            generator = np.random.default_rng((self._seed, count, drawn_epoch))
            places = generator.choice(count, size=self.steps_per_epoch, p=self.probabilities(drawn_epoch))
            chosen = places[:, None] == np.arange(count)
            before = self._drawn + chosen.cumsum(axis=0) - chosen
            self._draws.append((places, before[np.arange(len(places)), places]))
            self._drawn = self._drawn + chosen.sum(axis=0)
        return self._draws[epoch]


def divide_in_proportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Task -> its whole part of `total`, in proportion to `sizes` by the largest remainder, and at least 1.

    total: at least the number of tasks, which the parts add up to.
    """
    shared = dict(sizes)
    # A small set that is raised to 1 leaves less for the others, which may bring the next one below 1.
    while True:
        rest, whole = total - (len(sizes) - len(shared)), sum(shared.values())
        enough = {task: size for task, size in shared.items() if size * rest >= whole}
        if len(enough) == len(shared):
            break
        shared = enough
    parts = {task: size * rest // whole for task, size in shared.items()}
    by_remainder = sorted(shared, key=lambda task: shared[task] * rest % whole, reverse=True)
    for task in by_remainder[: rest - sum(parts.values())]:
        parts[task] += 1
    return {task: parts.get(task, 1) for task in sizes}
