"""The flag --products: which library multiplies fp32 matrices on this CPU, timed once a machine.

What was found is kept in the user's cache directory, by processor, torch, number of threads, and what oneDNN and MKL
are told by the environment. It is speed alone that is kept: a resumed run takes what its state names.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.kernels.caches import user_cache
from concord.kernels.products import GAIN, Comparison, compare_products, onednn_missing, set_products
from concord.train.steps.precision import Precision

_TOLD_BY = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ATEN_CPU_CAPABILITY")


def resolve_products(products: str, precision: Precision) -> str:
    """Resolve the flag --products for the whole process; in words, what multiplies fp32 matrices from now on.

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
        **{name: os.environ.get(name, "") for name in _TOLD_BY},
    }
    digest = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:32]
    path = user_cache("products") / f"{digest}.json"
    if kept := _read(path, environment):
        return kept
    found = compare_products()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            content = {"environment": environment, **asdict(found)}
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError:  # a cache that cannot be written costs the next run a moment, and this one nothing
        pass
    return found


def _read(path: Path, environment: dict[str, str]) -> Comparison | None:
    """What is kept, None where that is nothing, or damaged: it is found anew then."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["environment"] != environment:
            return None
        return Comparison(gain=float(content["gain"]), wrong=str(content["wrong"])[:200])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
