"""The whole training step with PCGrad on a CPU: Concord against its peers, in turn, and how it grows.

All train on the same examples, in fp32 and, where the CPU multiplies it, in bf16: at the lengths of the course data, or
of --data. Where one thread computes, rounds are timed by that thread's own clock too, which does not count what else
the machine does. Peers train under autocast.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from bench.contest import Contestant, by_itself
from bench.lengths import read_lengths, splits_of_tasks
from bench.step_cases import (
    AMPS_OF_CPU,
    CONCORD,
    PEERS,
    SMALL,
    TORCHJD,
    Case,
    build_step,
    parity_of,
    splits_of,
    step_precision,
)
from concord.kernels.measure import Work

COURSE = Case("MiniLM")
TASKS, EXAMPLES = (2, 3, 4, 8, 16), 96  # of a step, whatever the number of tasks
BATCHES = (3, 11, 32, 110, 230)  # some 300 to 20,000 tokens
NAME = "training step with PCGrad"

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_training_step.py measures steps on a GPU")


def contestant(case, name, splits, lengths, amp, rounds, **more):
    """Who trains on `splits` for so many rounds; more: what else stands in its row."""
    precision = step_precision(amp)
    step = build_step(case, name, splits, torch.device("cpu"), rounds=rounds, warm_up=1, amp=amp)
    return Contestant(
        run=step.run,
        case=case.described(lengths, precision.name, len(splits)),
        peer=name,
        work=Work(operations=step.operations, dtype=precision.compute_dtype),
        parity=parity_of(name),
        extra={
            "tokens": step.tokens,
            "examples": case.batch * len(splits),
            "padding_share": round(1 - step.tokens / step.computed, 3),
            **more,
        },
    )


def with_peaks(case, names, splits, lengths, amp, rounds):
    """These contestants with the memory of each, which is measured before any is there: all do not fit beside one."""
    peaks = {name: by_itself("step", str(case), name, amp).peak_bytes for name in names}
    return [contestant(case, name, splits, lengths, amp, rounds, peak_bytes=peaks[name]) for name in names]


@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.parametrize("case", [SMALL, COURSE], ids=str)
@pytest.mark.benchmark(group="training step")
def test_training_steps_in_turn(record_contest, training_splits, lengths_name, case, amp):
    names = (*CONCORD, *PEERS, *(TORCHJD if case == COURSE else ()))
    splits, rounds = splits_of(case, training_splits), 5
    if case == COURSE:
        contestants = with_peaks(case, names, splits, lengths_name, amp, rounds)
    else:
        contestants = [contestant(case, name, splits, lengths_name, amp, rounds) for name in names]
    record_contest(contestants, group="step", name=NAME, rounds=rounds)


@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="training step")
def test_training_steps_by_tasks(record_contest, amp):
    """As many examples, of as many tokens: what a task costs is surgery, and the pieces that products fall into."""
    contestants = []
    for tasks in TASKS:
        case, splits = Case("MiniLM", batch=EXAMPLES // tasks), splits_of_tasks(tasks, 512, read_lengths())
        contestants.append(contestant(case, "concord", splits, "pooled", amp, 5))
    record_contest(contestants, group="step", name=f"{NAME}, {EXAMPLES} examples", rounds=5)


@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="training step")
def test_training_steps_by_tokens(record_contest, training_splits, lengths_name, amp):
    contestants = [
        contestant(Case("MiniLM", batch=batch), name, training_splits, lengths_name, amp, 3)
        for batch in BATCHES
        for name in ("concord", "best of stock")
    ]
    record_contest(contestants, group="step", name=f"{NAME}, by tokens", rounds=3)


@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="training step")
def test_training_steps_of_bert_base(record_contest, training_splits, lengths_name, amp):
    """Which do not fit beside each other: each round of one is a process, which warms up and tells of its memory."""
    case, contestants = Case("BERT-base"), []
    for name in ("concord", "faithful", "best of stock"):
        told = contestant(case, name, training_splits, lengths_name, amp, 1)
        contestants.append(replace(told, run=partial(by_itself, "step", str(case), name, amp)))
    record_contest(contestants, group="step", name=NAME, rounds=2, warm_up=0)
