"""The ops, each with its formula, its torch reference, its Triton kernels and its autograd Function."""
