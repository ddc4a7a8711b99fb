"""What is read from a compiled kernel's assembly: how wide its loads and stores are, and its matrix instructions."""

import os
import re
import subprocess
from collections import Counter

import triton

_PTX_ACCESS = re.compile(r"\b(ld|st)\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[busf](\d+)\s")
_PTX_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global[.\w:]* \[[^]]*\], \[[^]]*\], (0x[0-9a-f]+|\d+)")
_AMD_ACCESS = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(\w+)")
_AMD_BYTES = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "ushort": 2, "byte": 1, "ubyte": 1}

Widths = dict[int, int]
"""Bytes that a thread moves by one instruction -> how many instructions of that width there are."""


def ptx_widths(ptx: str) -> tuple[Widths, Widths]:
    """The loads and the stores of global memory, copies to shared memory among the loads."""
    found: dict[str, Counter[int]] = {"ld": Counter(), "st": Counter()}
    for kind, elements, bits in _PTX_ACCESS.findall(ptx):
        found[kind][int(elements or 1) * int(bits) // 8] += 1
    for size in _PTX_COPY.findall(ptx):
        found["ld"][int(size, 0)] += 1
    return dict(found["ld"]), dict(found["st"])


def amd_widths(assembly: str) -> tuple[Widths, Widths]:
    """The same of a kernel for AMD's GPUs."""
    found: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for kind, what in _AMD_ACCESS.findall(assembly):
        if width := next((size for name, size in _AMD_BYTES.items() if what.startswith(name)), 0):
            found[kind][width] += 1
    return dict(found["load"]), dict(found["store"])


def widest(widths: Widths) -> int:
    """The bytes of the widest access; 0 where there is none."""
    return max(widths, default=0)


def matrix_instructions(text: str, known: tuple[str, ...]) -> list[str]:
    """Those of the `known` instructions that a kernel has, in their order."""
    return [instruction for instruction in known if instruction in text]


def ptxas_warnings(ptx: str, capability: int) -> list[str]:
    """What the assembler of sm_90 says of wgmma instructions that it had to make wait for one another (C75xx).

    Triton has it compile already, and keeps what it says to itself. Only kernels with such instructions are compiled
    again; of other targets there is nothing to be said.
    """
    if capability != 90 or "wgmma" not in ptx:
        return []
    command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name=sm_{capability}a", "/dev/stdin", "-o", os.devnull]
    done = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True)
    return [line.strip()[:200] for line in done.stderr.splitlines() if re.search(r"\bC75\d\d\b", line)]
