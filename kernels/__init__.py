"""The ops: each file holds one, with its formula, its reference and its autograd Function."""

from kernels.adamw import combine_adamw_
from kernels.attention import attention, first_token_attention
from kernels.dropout import Dropout, DropoutStream
from kernels.embedding import embedding
from kernels.flat import FlatParameters
from kernels.gelu import bias_gelu
from kernels.gram import gram_matrix
from kernels.layer_norm import add_layer_norm
from kernels.linear import linear
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.rows import TaskRows, part
from kernels.sequences import HostSequences, Sequences
from kernels.surgery import Rates, SurgeryPlan, SurgerySettings, SurgeryState, new_surgery_state, plan_update

__all__ = [
    "Dropout",
    "DropoutStream",
    "FlatParameters",
    "HostSequences",
    "Rates",
    "Sequences",
    "SurgeryPlan",
    "SurgerySettings",
    "SurgeryState",
    "TaskRows",
    "add_layer_norm",
    "attention",
    "bias_gelu",
    "combine_adamw_",
    "embedding",
    "first_token_attention",
    "gram_matrix",
    "linear",
    "linear_cross_entropy",
    "new_surgery_state",
    "part",
    "plan_update",
]
