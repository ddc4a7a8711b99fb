"""The least that a training step must multiply: what its share of the device's limit is taken against."""

from collections.abc import Iterable

import numpy as np

from concord.bert.config import BertConfig


def step_operations(model: BertConfig, lengths: Iterable[int]) -> float:
    """Operations of the matrix products of one step, forward and backward, over sequences of `lengths` tokens.

    A weight is multiplied thrice: for the result, for its input's gradient and for its own, 2 operations an element and
    row each. Attention has two products forward and four backward. The last layer's queries, its attention's output and
    its feed-forward are needed for the first tokens alone, which is all that [CLS] pooling reads. Embeddings, heads and
    surgery multiply no matrices worth counting, and what a backward computes anew is not needed.
    """
    each = np.asarray(list(lengths), dtype=np.float64)
    tokens, sequences, squares = each.sum(), len(each), (each**2).sum()
    hidden, inner, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    whole = 6 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 12 * squares * hidden
    keys_and_values = 6 * tokens * 2 * hidden**2
    last = keys_and_values + 6 * sequences * (2 * hidden**2 + 2 * hidden * inner) + 12 * tokens * hidden
    pooler = 6 * sequences * hidden**2
    return float((layers - 1) * whole + last + pooler)
