"""Memory that was freed goes back to the system."""

import os
import platform

import pytest
import torch

from train.memory import return_freed_memory


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_pages_of_holes_in_the_heap_are_given_back():
    blocks = [torch.ones(16_000) for _ in range(4000)]  # 64 KB each, which glibc takes from its heap
    kept = blocks[::8]  # between which the rest leaves holes
    del blocks
    before = resident_bytes()
    return_freed_memory()
    assert before - resident_bytes() > 100e6
    assert all(block.sum() == 16_000 for block in kept)
