"""How often a function makes the host wait for the GPU.

On a GPU torch itself tells. On a CPU, where nothing waits, the ops are counted that would: those whose result, or its
size, is read on the host. Of Concord that counts what its references read, and the Triton kernels may not.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)
_INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)


def count_host_synchronisations(
    function: Callable[[], Any], device: torch.device, optimizer: torch.optim.Optimizer | None = None
) -> int:
    """How often one call of `function` makes the host wait.

    optimizer: torch's, whose step counters are on the host on a GPU as well: reading them is no wait.
    """
    if device.type == "cuda":
        return _warnings_of(function)
    counters = [state["step"] for state in optimizer.state.values()] if optimizer else []
    with _Count(counters) as counted:
        function()
    return counted.found


class _Count(TorchDispatchMode):
    """Counts the ops that read tensors on the host, other than `exempt`."""

    def __init__(self, exempt: Sequence[Tensor]) -> None:
        super().__init__()
        self.found = 0
        self._exempt = {tensor.data_ptr() for tensor in exempt}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        if function in _READS:
            self.found += arguments[0].data_ptr() not in self._exempt
        elif function in _INDEXED:
            # A mask is turned into as many indices as it holds, which the host has to know.
            self.found += any(index is not None and index.dtype == torch.bool for index in arguments[1])
        return function(*arguments, **(keywords or {}))


def _warnings_of(function: Callable[[], Any]) -> int:
    """The warnings of torch about synchronising operations."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
