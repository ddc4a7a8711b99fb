"""Fixtures of the kernels' tests."""

import pytest

from concord.kernels.checks import judging


@pytest.fixture
def poisoned():
    """Fresh memory holds NaN, so that what a kernel forgets to write is seen."""
    with judging.poisoned():
        yield
