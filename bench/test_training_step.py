"""The whole training step, three tasks with PCGrad: Concord against the papers' trainer and the best of stock.

All train on the same examples in the same run, in mixed precision on a GPU and fp32 on a CPU: at the lengths of the
course data, or of --data, and at fixed ones.
"""

import pytest
import torch

from bench.step_cases import (
    SMALL,
    TORCHJD,
    build_step,
    contests,
    parity_of,
    runs_on_cpu,
    splits_of,
    step_precision,
)

ON_GPU = torch.cuda.is_available()


def chosen():
    """The contests, with those marked that this device is no place for."""
    marked = []
    for case, name in contests():
        fits = case != SMALL if ON_GPU else runs_on_cpu(case, name)
        reason = "measured on a CPU only" if ON_GPU else "too slow on a CPU"
        skipped = [] if fits else [pytest.mark.skip(reason)]
        marked.append(pytest.param(case, name, marks=skipped, id=f"{case}-{name}"))
    return marked


def rounds_of(case, name):
    """(rounds, warm-up): more where lengths differ from step to step, since graphs and memory are made for each."""
    if case.length is not None:
        return (10, 3) if ON_GPU else (2, 1)
    if name in TORCHJD:
        return (10, 5) if ON_GPU else (2, 1)
    return (30, 20) if ON_GPU else (3, 1)


@pytest.mark.parametrize(("case", "name"), chosen())
@pytest.mark.benchmark(group="training step")
def test_training_step(record, device, training_splits, lengths_name, case, name):
    splits = splits_of(case, training_splits)
    rounds, warm_up = rounds_of(case, name)
    step = build_step(case, name, splits, device, rounds=rounds, warm_up=warm_up)
    record(
        step.run,
        group="step",
        name="training step with PCGrad",
        case=case.described(lengths_name, step_precision().name, len(splits)),
        peer=name,
        parity=parity_of(name),
        rounds=rounds,
        warm_up=warm_up,
        extra={
            "tokens": step.tokens,
            "examples": case.batch * len(splits),
            "padding_share": round(1 - step.tokens / step.computed, 3),
        },
    )
