"""Kernels are interpreted on the CPU where there is no CUDA device; the mode is fixed when triton is imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    """Random inputs are the same in every run and for whichever tests are chosen."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_kernels():
    """A command that a test runs chooses kernels for the whole process: the next test starts from the default."""
    from kernels.dispatch import using_kernels

    with using_kernels("auto"):
        yield
