"""The fp32 matrix products of linear layers on a CPU, by whichever of torch's two libraries is faster there.

torch multiplies fp32 by MKL, which on some processors reaches half of what oneDNN does, though torch has both: oneDNN
is reached by an operator of torch's own compiler, which has no gradient, and so stands inside of our autograd functions
alone. bf16 goes to oneDNN in any case, other devices to libraries of their own.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from concord.kernels.threads import Choice
from concord.kernels.tolerances import allowed_error, relative_error

LIBRARIES = ("torch", "onednn")
GAIN = 1.2  # times as fast as torch's default, before that is left
_ROWS, _INNER, _WIDTH = 1024, 1536, 384  # of the products that are timed: one linear layer of MiniLM
_ROUNDS = 7

PRODUCT_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
)
"""Variables by which torch's libraries choose how they multiply on a CPU: what is as fast, and which bits come out."""
# The values of ONEDNN_MAX_CPU_ISA that keep oneDNN, and so torch, from multiplying bf16 in hardware.
_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")

_library = Choice("torch")


def set_products(library: str) -> None:
    """Choose torch (its default) or onednn, for the whole process, or within `concord.kernels.threads.own_choices` for
    this thread. ValueError for another, or where oneDNN is missing.

    Resumed runs go on with the library of their state: the two round differently.
    """
    if library not in LIBRARIES:
        raise ValueError(f"products {library!r}: expected one of {', '.join(LIBRARIES)}")
    if library == "onednn" and (missing := onednn_missing()):
        raise ValueError(f"products {library!r}: {missing}")
    _library.choose(library)


def chosen_products() -> str:
    """What is chosen: one of `LIBRARIES`."""
    return _library.value


def onednn_missing() -> str:
    """Why there are no products by oneDNN in this torch; empty where there are."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch has no operator that multiplies by oneDNN"
    return ""


def cpu_multiplies_bf16() -> bool:
    """Whether torch multiplies bf16 in hardware here: the processor can, and ONEDNN_MAX_CPU_ISA does not forbid it."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BF16:
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def linear_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight^T + bias`, without a gradient by oneDNN: [rows, n], [m, n] and [m] in one dtype -> [rows, m]."""
    if takes_onednn(x):
        return by_onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def add_product(target: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`target + x @ weight^T` [rows, m], in the memory of `target`, without a gradient; on a device in one launch."""
    if target.device.type == "cpu":
        return target.add_(linear_product(x, weight))
    return target.addmm_(x, weight.t())


def takes_onednn(x: Tensor) -> bool:
    """Whether products that start with `x` are oneDNN's."""
    return _library.value == "onednn" and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight^T + bias` by oneDNN, whatever is chosen; without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found of oneDNN's fp32 products on this processor.

    Attributes:
        gain: seconds that torch's default takes for the products of a layer, forward and backward, over oneDNN's.
        wrong: why oneDNN's are not to be trusted, or cannot be had; empty where they can.
    """

    gain: float = 0.0
    wrong: str = ""

    @property
    def library(self) -> str:
        """The one to take."""
        return "onednn" if not self.wrong and self.gain >= GAIN else "torch"


def compare_products() -> Comparison:
    """Time the three products of a linear layer by both libraries, with this process's threads, and compare results.

    The least of several rounds is taken of each, so that a busy machine does not decide. About a fifth of a second.
    """
    if missing := onednn_missing():
        return Comparison(wrong=missing)
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (
        torch.randn(shape, generator=generator) for shape in ((_ROWS, _WIDTH), (_INNER, _WIDTH), (_ROWS, _INNER))
    )
    pairs = ((x, weight), (dy, weight.t()), (dy.t(), x.t()))  # the result, dx, and the weight's gradient
    for left, right in pairs:
        exact = left.double() @ right.t().double()
        try:
            error = relative_error(by_onednn(left, right, None), exact)
        except RuntimeError as refused:
            return Comparison(wrong=f"oneDNN does not multiply here: {str(refused).partition(chr(10))[0][:120]}")
        if not error <= (allowed := allowed_error(left @ right.t(), exact, torch.float32)):
            return Comparison(wrong=f"oneDNN's products differ here, error {error:.2g}, allowed {allowed:.2g}")
    seconds = {functional.linear: 0.0, by_onednn: 0.0}
    for left, right in pairs:
        for product, least in _least_seconds(left, right).items():
            seconds[product] += least
    return Comparison(gain=seconds[functional.linear] / seconds[by_onednn])


def _least_seconds(left: Tensor, right: Tensor) -> dict[Callable[..., Tensor], float]:
    """The least of some rounds of each library, in turn."""
    least = {functional.linear: float("inf"), by_onednn: float("inf")}
    for _ in range(_ROUNDS):
        for product in least:
            began = time.perf_counter()
            product(left, right, None)
            least[product] = min(least[product], time.perf_counter() - began)
    return least
