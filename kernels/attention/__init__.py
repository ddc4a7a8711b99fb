"""Attention over packed sequences: the op, its launcher, and kernels for short, long and first-token attention."""
