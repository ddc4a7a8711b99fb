"""Which interpreter this is: what is mended and watched here are private parts of the one that Triton 3.7 has."""

import os

import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
IS_KNOWN = triton.__version__.startswith("3.7.")
BF16_IS_TRUE = INTERPRETED and IS_KNOWN
