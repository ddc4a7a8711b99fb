"""How the ranks divide a micro-batch: every example once, and tokens as even as the longest example lets them be."""

import numpy as np
import pytest

from concord.train.data.batches import LabelledBatch, whole_step
from concord.train.data.parts import divide
from concord.train.data.tasks import select_tasks
from concord.train.ranks.gathering import Others
from tests.samples import random_split

TASKS = select_tasks(["sst", "paraphrase", "sts"], None)
SPLITS = {
    task.name: random_split(task, 40, per_example=1 + task.pair, seed=seed, longest=50)
    for seed, task in enumerate(TASKS)
}


def micro_batch(*counts):
    random = np.random.default_rng(3)
    return {task.name: random.permutation(40)[:count] for task, count in zip(TASKS, counts, strict=True)}


def test_a_rank_overwrites_its_gradients_with_the_first_batch_that_it_has_an_example_of():
    nothing, some = {"sst": np.zeros(0, dtype=np.int64)}, {"sst": np.array([1])}
    asked = []

    def gather(part, accumulate):
        asked.append(accumulate)
        return LabelledBatch("packed", {})

    others = [Others({}, last, tokens=9) for last in (False, False, False, True)]
    batches = list(whole_step(list(zip([nothing, some, nothing, some], others, strict=True)), gather))
    assert asked == [False, True]
    assert [batch.packed for batch in batches] == [None, "packed", None, "packed"]
    assert [batch.others for batch in batches] == others


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("counts", [(32, 32, 32), (7, 0, 13), (1, 0, 0), (0, 2, 1)])
def test_no_two_ranks_differ_by_more_tokens_than_the_longest_example_has(size, counts):
    examples = micro_batch(*counts)
    owners = divide(examples, SPLITS, size)
    tokens, longest = np.zeros(size, dtype=int), 0
    for name, own in examples.items():
        assert owners[name].shape == own.shape
        for example, rank in zip(own, owners[name], strict=True):
            count = SPLITS[name].tokens_of(np.array([example]))
            tokens[rank] += count
            longest = max(longest, count)
    assert tokens.sum() == sum(SPLITS[name].tokens_of(own) for name, own in examples.items())
    assert tokens.max() - tokens.min() <= longest
