"""The host's memory: what a process has freed and still holds."""

import ctypes


def return_freed_memory() -> None:
    """Give the memory that this process has freed back to the system, where its C library is glibc.

    Tensors that have another size in every step leave holes in its heap, which thus grows over thousands of steps to
    several times what is in use; the holes' pages are given back here.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
