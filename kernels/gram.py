"""The Gram matrix of the task gradients, G[i, j] = g_i . g_j, one a block of parameters.

Every PCGrad-like rule, the clipped norm, the overflow check and the conflict statistics need nothing else of the
gradients. Reads T * P elements once.
"""

import torch
from torch import Tensor

from kernels.flat import FlatParameters

_SLICE = 1 << 16  # elements a task: T slices stay in a core's cache while all pairs of them are multiplied


def gram_matrix(parameters: FlatParameters) -> Tensor:
    """The Gram matrix of each block, fp64 [blocks, T, T]; their sum is the whole model's.

    Products are fp32 sums over slices of 65,536 elements, added up in fp64. A non-finite gradient makes its row's
    diagonal non-finite.
    """
    tasks = parameters.gradients.shape[0]
    gram = torch.zeros(
        len(parameters.block_names), tasks, tasks, dtype=torch.float64, device=parameters.gradients.device
    )
    for run in parameters.runs:
        for start in range(run.start, run.stop, _SLICE):
            piece = parameters.gradients[:, start : min(start + _SLICE, run.stop)].float()
            gram[run.block] += piece @ piece.t()
    return gram
