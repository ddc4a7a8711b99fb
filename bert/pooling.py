"""Mean pooling: one vector a sequence, the mean of its tokens' hidden states."""

import torch
from torch import Tensor

from concord.kernels.layout.sequences import Sequences


def mean_of_sequences(hidden: Tensor, sequences: Sequences) -> Tensor:
    """The mean of each sequence's rows: [tokens, n] -> [sequences, n] in the same dtype, summed in fp32 or wider.

    Rows after the last sequence count for nothing and take gradients of zero. No length is read on the host, and each
    sum has one order, so that the same call gives the same bits on any device.
    """
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    # unsafe: the check of the boundaries would wait for the device.
    means = torch.segment_reduce(wide, "mean", offsets=sequences.cu_seqlens, axis=0, unsafe=True)
    return means.to(hidden.dtype)
