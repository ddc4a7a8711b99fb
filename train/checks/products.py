"""The flag --products: which library multiplies fp32 matrices on this CPU, timed once a machine.

What was found is kept in the user's cache directory, by processor, torch, number of threads, and what oneDNN and MKL
are told by the environment. It is speed alone that is kept: a resumed run takes what its state names.
"""

import hashlib
import json
import os
from dataclasses import asdict
from typing import Any

import torch

from concord.bert.errors import InputError
from concord.kernels.caches import user_cache
from concord.kernels.products import (
    GAIN,
    PRODUCT_VARIABLES,
    Comparison,
    compare_products,
    onednn_missing,
    set_products,
)
from concord.train.checks.kept import keep, read_kept
from concord.train.steps.precision import Precision


def resolve_products(products: str, precision: Precision) -> str:
    """Resolve the flag --products for the whole process, or within `own_choices` for this thread; in words, what
    multiplies fp32 matrices from now on.

    products: auto, torch or onednn. Empty where the run has no such products to speak of, on a GPU or in another
    format, and torch's default is taken. Raises InputError where oneDNN is asked for and cannot be had.
    """
    on_cpu = precision.device.type == "cpu"
    if products == "onednn":
        if not on_cpu:
            raise InputError(f"--products onednn: needs a CPU, and this run is on {precision.device_name}")
        if missing := onednn_missing():
            raise InputError(f"--products onednn: {missing}; --products auto takes torch's default")
        set_products("onednn")
        return "oneDNN, as asked"
    set_products("torch")
    if not on_cpu or precision.compute_dtype != torch.float32:
        return ""
    if products == "torch":
        return "torch's default, as asked"
    if products != "auto":
        raise InputError(f"--products {products}: expected auto, torch or onednn")
    found = compared_products(precision)
    set_products(found.library)
    return describe_comparison(found)


def describe_comparison(found: Comparison) -> str:
    """What is taken, and why."""
    if found.wrong:
        return f"torch's default ({found.wrong})"
    if found.library == "onednn":
        return f"oneDNN ({found.gain:.1f} times as fast here as torch's default)"
    return f"torch's default (oneDNN is {found.gain:.2f} times as fast here, and {GAIN:g} are asked of it)"


def compared_products(precision: Precision) -> Comparison:
    """What is kept of this machine, or found now, which then is kept."""
    environment = {
        "device": precision.device_name,  # the processor and the number of threads
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "dtype": precision.name,
        **{name: os.environ.get(name, "") for name in PRODUCT_VARIABLES},
    }
    digest = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:32]
    path = user_cache("products") / f"{digest}.json"

    def parse(content: dict[str, Any]) -> Comparison | None:
        if content["environment"] != environment:
            return None
        return Comparison(gain=float(content["gain"]), wrong=str(content["wrong"])[:200])

    if kept := read_kept(path, parse):
        return kept
    found = compare_products()
    keep(path, {"environment": environment, **asdict(found)})
    return found
