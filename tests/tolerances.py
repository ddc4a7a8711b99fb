"""The one table of tolerances: relative errors ||found - expected|| / ||expected|| that tests allow, by dtype.

They are a few roundings of the dtype. A test that fails is mended in the code, never here.
"""

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected|| in fp64; the plain norm of `found` where the expected norm is 0."""
    found, expected = found.detach().double(), expected.detach().double()
    norm = expected.norm().item()
    return (found - expected).norm().item() / (norm or 1.0)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fail where the relative error exceeds `tolerance`, a shape differs or a value is not finite."""
    assert found.shape == expected.shape
    error = relative_error(found, expected)
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


def assert_as_accurate(found: Tensor, same_dtype: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Fail where `found` is more than twice as far from `exact` as torch's expression in the same dtype is.

    dtype: of the activations that all three were computed from. A tenth of its tolerance, or of that of the dtype in
    which the result is stored, is always allowed. It is less than one rounding: on a few elements torch's error may
    happen to be none, and the interpreter cuts bf16 off where hardware rounds.
    """
    assert found.shape == exact.shape
    assert found.dtype == same_dtype.dtype
    error, other = relative_error(found, exact), relative_error(same_dtype, exact)
    allowed = 2 * other + max(TOLERANCES[dtype], TOLERANCES[found.dtype]) / 10
    assert error <= allowed, f"relative error {error:.2e}, torch's is {other:.2e}"
