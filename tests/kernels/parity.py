"""Where kernels are tested, in which dtypes, and the assertion that a case passes."""

from collections.abc import Sequence

import torch

from concord.kernels.checks import judging
from concord.kernels.checks.autograd import rows_of
from concord.kernels.layout.rows import TaskRows
from tests.interpreter.support import BF16_IS_TRUE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
# bf16 where it is computed as on a GPU.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (BF16_IS_TRUE or not INTERPRETED)


def task_rows(counts: Sequence[int], *, accumulate: bool = False) -> TaskRows:
    """The rows of tasks that own `counts` of them."""
    return rows_of(counts, DEVICE, accumulate=accumulate)


def check(case: judging.Case) -> None:
    """Fail where the kernels' error exceeds what the case allows, or a second call gives other bits."""
    verdict = judging.judge(case)
    assert verdict.passed, f"{case.name}: {verdict.reason}"
