"""Kernels are interpreted on the CPU where there is no CUDA device; the mode is fixed when triton is imported."""

import os

import pytest
import torch

# Workers share the cores (pytest -n auto), and so do the processes that tests start.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1 and "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


from tests.interpreter import language, support

if support.INTERPRETED:
    language.patch_once()
if support.BF16_IS_TRUE:
    from tests.interpreter import bf16

    bf16.install()
pytest_plugins = ["tests.interpreter.plugin"]


def pytest_collection_modifyitems(config, items):
    """Leave out what is marked `long`, unless it is asked for by name."""
    if "long" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    """Random inputs are the same in every run and for whichever tests are chosen."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_kernels():
    """A command that a test runs chooses kernels for the whole process: the next test starts from the default."""
    from concord.kernels.dispatch import using_kernels
    from concord.kernels.products import set_products

    set_products("torch")
    with using_kernels("auto"):
        yield
