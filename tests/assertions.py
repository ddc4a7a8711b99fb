"""Assertions on the errors of tensors, by the one table of `kernels.tolerances`."""

import torch
from torch import Tensor

from concord.kernels.tolerances import allowed_error, relative_error


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fail where the relative error exceeds `tolerance`, a shape differs or a value is not finite."""
    assert found.shape == expected.shape
    error = relative_error(found, expected)
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


def assert_as_accurate(found: Tensor, same_dtype: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Fail where the error of `found` exceeds what `allowed_error` allows."""
    assert found.shape == exact.shape
    assert found.dtype == same_dtype.dtype
    error, allowed = relative_error(found, exact), allowed_error(same_dtype, exact, dtype)
    assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.2e}"
