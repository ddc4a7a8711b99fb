"""The kernels judged on this device before a run trusts them."""
