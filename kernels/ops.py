"""The ops by name, and what a user may ask of them.

Command lines are made of it, so that it imports nothing but Python: torch takes a second, and help need not wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CHOICES = ("auto", "triton", "native", "torch")
"""What `concord.kernels.dispatch.set_kernels` takes."""
DROPOUT_LEVELS = 1 << 16
HIGHEST_RATE = 1 - 1 / DROPOUT_LEVELS
"""The highest rate of a dropout: rates are multiples of 2^-16, and below 1, so that some elements are kept."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """What there is to know of an op before it is launched.

    title: what it is called in the lines that a run prints.
    products: whether its kernels are made of matrix products, which stay with torch on GPUs before sm_80.
    reads_lengths: whether its reference needs on the host where sequences and tasks begin.
    native: whether there are native kernels of it, whose launchers have the names and arguments of Triton's.
    """

    title: str
    products: bool = False
    reads_lengths: bool = False
    native: bool = False


OPS: Mapping[str, Op] = {
    "attention": Op(title="attention", products=True, reads_lengths=True, native=True),
    "first_token_attention": Op(title="first tokens' attention", reads_lengths=True, native=True),
    "bias_gelu": Op(title="GELU", native=True),
    "add_layer_norm": Op(title="LayerNorm", reads_lengths=True, native=True),
    "dropout": Op(title="dropout of heads' features"),
    "embedding": Op(title="embedding", reads_lengths=True, native=True),
    "task_sums": Op(title="sums over tasks' rows", reads_lengths=True, native=True),
    "task_products": Op(title="weight gradients", products=True, reads_lengths=True),
    "linear_cross_entropy": Op(title="linear + cross-entropy", products=True, reads_lengths=True),
    "gather": Op(title="gathering of batches"),
    "gram_matrix": Op(title="Gram matrix", native=True),
    "plan_update": Op(title="surgery's plan"),
    "combine_adamw": Op(title="combine + AdamW", native=True),
    "multi_tensor": Op(title="surgery on tensors that lie apart"),
}
"""Every op that has kernels, by the name with which it asks whether to take them."""
