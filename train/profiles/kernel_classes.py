"""Which class of op the time of a kernel counts to, by the name that a profiler gives it.

Triton's kernels are told apart by their functions' names, of which each is unique; those of torch by patterns, and on a
CPU its operators.
"""

import functools
import importlib
import re
from collections.abc import Mapping

PRODUCTS, COPIES, OTHER = "matrix products by torch", "copies and casts", "other"
ATTENTION = "attention"  # which is divided into forward and backward

# Module of kernels -> the class of what it launches.
CLASS_OF_MODULE: Mapping[str, str] = {
    "attention.first_token_kernels": "first tokens' attention",
    "attention.mixed_kernels": ATTENTION,
    "attention.short_kernels": ATTENTION,
    "attention.tiled_kernels": ATTENTION,
    "dropout_kernels": "heads' dropout",
    "embedding_kernels": "embedding",
    "gather_kernels": "gathering of batches",
    "gelu_kernels": "GELU",
    "layer_norm_kernels": "LayerNorm",
    "linear_cross_entropy_kernels": "linear + cross-entropy",
    "surgery.adamw_kernels": "AdamW",
    "surgery.gram_kernels": "Gram matrix",
    "surgery.multi_tensor_kernels": "tensors that lie apart",
    "surgery.plan_kernels": "plan",
    "table_sums_kernels": "embedding",
    "task_products_kernels": "weight gradients",
    "task_sums_kernels": "sums over tasks' rows",
}
# cuBLAS's names tell the kind in one way or another; a CPU's operators have theirs.
_TORCH = {
    PRODUCTS: r"gemm|gemv|nvjet|cutlass|cublas|splitkreduce|xmma|^aten::(mm|addmm_?|bmm|baddbmm|mv|dot)$"
    r"|^(aten::)?mkldnn.*linear",
    COPIES: r"^mem(cpy|set)|copy_kernel|copy_device|catarray|fillfunctor"
    r"|^aten::(copy_|_to_copy|clone|contiguous|cat|fill_|zero_)$",
}
# What native.cpp registers.
_NATIVE = {
    "add_norm_forward": "LayerNorm",
    "attention_backward": f"{ATTENTION} backward",
    "attention_forward": f"{ATTENTION} forward",
    "combine_adamw_step": "AdamW",
    "dropout_factors": "heads' dropout",
    "embedding_forward": "embedding",
    "first_token_backward": "first tokens' attention",
    "first_token_forward": "first tokens' attention",
    "gelu_backward": "GELU",
    "gelu_forward": "GELU",
    "gram_of_flat": "Gram matrix",
    "norm_backward": "LayerNorm",
    "table_sums": "embedding",
    "task_sums": "sums over tasks' rows",
}
NATIVE = "concord_native::"
_WAITS = re.compile(r"^(Context|Stream|Event) (Sync|Wait)")


@functools.cache
def triton_classes() -> dict[str, str]:
    """Name of each Triton kernel -> its class; ValueError where two kernels share a name."""
    found: dict[str, str] = {}
    for module, own in CLASS_OF_MODULE.items():
        for function in vars(importlib.import_module(f"concord.kernels.{module}")).values():
            # Compiled and interpreted functions both keep the Python function that they are made of.
            name = getattr(getattr(function, "fn", None), "__name__", "")
            if not name.endswith("_kernel") or function.fn.__module__ != f"concord.kernels.{module}":
                continue
            label = f"{own} {'forward' if 'forward' in name else 'backward'}" if own == ATTENTION else own
            if name in found:
                raise ValueError(f"{name}: a kernel of {label} and one of {found[name]}, expected different names")
            found[name] = label
    return found


def class_of(name: str) -> str:
    """The class of the kernel, the copy or the operator that is called `name`; `OTHER` for what the tables lack."""
    if own := triton_classes().get(name) or _NATIVE.get(name.removeprefix(NATIVE)):
        return own
    return next((label for label, pattern in _TORCH.items() if re.search(pattern, name.lower())), OTHER)


def is_wait(name: str) -> bool:
    """Whether a profiler's event of the device is no work, but somebody's wait for it."""
    return bool(_WAITS.match(name))
