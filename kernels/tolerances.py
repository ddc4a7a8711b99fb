"""The one table of tolerances: relative errors ||found - expected|| / ||expected|| that are allowed, by dtype, and by
how much the answers of a model in another library may differ.

They are a few roundings of the dtype. What fails by them is mended in the code, never here.
"""

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# What an exported model answers in another library, in fp32: the largest difference of a score, as a share of its
# range, and of an element of an embedding of length 1.
EXPORTED = 1e-5


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected|| in fp64; the plain norm of `found` where the expected norm is 0."""
    found, expected = found.detach().double(), expected.detach().double()
    norm = expected.norm().item()
    return (found - expected).norm().item() / (norm or 1.0)


def allowed_error(same_dtype: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """The relative error that a kernel may have: twice that of torch's expression in the same dtype.

    same_dtype, exact: what torch makes of the same inputs in `dtype` and in a higher precision; dtype: of the
    activations. A tenth of its tolerance, or of that of the dtype in which the result is stored, is always allowed. It
    is less than one rounding: on a few elements torch's error may happen to be none.
    """
    return 2 * relative_error(same_dtype, exact) + max(TOLERANCES[dtype], TOLERANCES[same_dtype.dtype]) / 10
