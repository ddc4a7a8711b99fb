"""Kernels are interpreted on the CPU where there is no CUDA device; the mode is fixed when triton is imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
