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


def _patch_the_language_once() -> None:
    """Halve the interpreter's time: it looks through triton.language for what to replace at every call of a device
    function, though the launch around that call has replaced it already. Once a module is enough."""
    from triton.runtime import interpreter

    patched = set()

    def call(self, *arguments, **options):
        if self.fn.__module__ not in patched:
            patched.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*arguments, **options)

    interpreter.InterpretedFunction.__call__ = call


if os.environ.get("TRITON_INTERPRET") == "1":
    _patch_the_language_once()


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
