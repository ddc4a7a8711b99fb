"""Checks of the kernels against their references, on whichever device they are about to be trusted."""
