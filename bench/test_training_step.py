"""The whole training step with PCGrad, on a GPU: Concord against the papers' trainer and the best of stock.

All train three tasks on the same examples in the same run, in mixed precision: at the lengths of the course data, or of
--data, and at fixed ones. `test_cpu_steps.py` measures it on a CPU.
"""

import pytest
import torch

from bench.step_cases import TORCHJD, build_step, contests, parity_of, splits_of, step_precision
from concord.kernels.measure import Work

ON_GPU = torch.cuda.is_available()


def rounds_of(case, name):
    """(rounds, warm-up): more where lengths differ from step to step, since graphs and memory are made for each."""
    if case.length is not None:
        return 10, 3
    return (10, 5) if name in TORCHJD else (30, 20)


@pytest.mark.skipif(not ON_GPU, reason="test_cpu_steps.py measures steps on a CPU")
@pytest.mark.parametrize(("case", "name"), contests(), ids=lambda value: str(value))
@pytest.mark.benchmark(group="training step")
def test_training_step(record, device, training_splits, lengths_name, case, name):
    splits = splits_of(case, training_splits)
    rounds, warm_up = rounds_of(case, name)
    step, precision = build_step(case, name, splits, device, rounds=rounds, warm_up=warm_up), step_precision()
    record(
        step.run,
        group="step",
        name="training step with PCGrad",
        case=case.described(lengths_name, precision.name, len(splits)),
        peer=name,
        work=Work(operations=step.operations, dtype=precision.compute_dtype),
        parity=parity_of(name),
        rounds=rounds,
        warm_up=warm_up,
        extra={
            "tokens": step.tokens,
            "examples": case.batch * len(splits),
            "padding_share": round(1 - step.tokens / step.computed, 3),
        },
    )
