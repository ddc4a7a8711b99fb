"""What the benchmarks add to `kernels.measure`: the device's record, the head of a file of results, and forgetting what
torch.compile has made."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pynvml
import torch
from torch._dynamo import config as dynamo_config

from concord.kernels.measure import measure_limits
from concord.train.checks.products import resolve_products
from concord.train.outputs.provenance import commit, versions
from concord.train.steps.precision import choose_kernels, choose_precision


def forget_compiled() -> None:
    """Let what torch.compile has made go, and have it fail where it would from now on run a function uncompiled.

    It counts the shapes of a function in a whole process, and past a limit of them takes plain torch, with a mere
    warning; and the CUDA graphs that it keeps hold their model's memory.
    """
    torch._dynamo.reset()
    dynamo_config.recompile_limit = 64
    dynamo_config.fail_on_recompile_limit_hit = True


def device_record(device: torch.device) -> dict[str, Any]:
    """What a result is worth nothing without: the device, its driver and clocks, and its measured limits.

    Of a GPU: power in watts at the moment, clocks in MHz; None for what the driver does not tell.
    """
    limits = asdict(measure_limits(device))
    if device.type == "cpu":
        return {
            "device": choose_precision("cpu", "off").device_name,
            "threads": torch.get_num_threads(),
            "limits": limits,
        }
    _asked(pynvml.nvmlInit)
    handle = _asked(pynvml.nvmlDeviceGetHandleByIndex, torch.cuda.current_device())
    milliwatts = _asked(pynvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "device": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),
        "driver": _asked(pynvml.nvmlSystemGetDriverVersion),
        "clock_mhz": _asked(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": _asked(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        "temperature_c": _asked(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_w": milliwatts and milliwatts / 1000,
        "limits": limits,
    }


def take_defaults() -> dict[str, str]:
    """Take for the whole process what a run takes by default, and say what: kernels, and of a CPU's fp32 products the
    library, each in words."""
    precision = choose_precision("auto", "off")
    taken = {"kernels": choose_kernels("auto", precision), "products": resolve_products("auto", precision)}
    return {name: words for name, words in taken.items() if words}


def results_file(
    folder: Path, command: str, device: Mapping[str, Any], parity: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Where the results of a call go, in `folder`, which is made where it is missing, and all of them but the rows.

    command: that measured; device: as `device_record` has it; parity: as `bench.parity.read_parity` has it.
    """
    now = datetime.now(UTC)
    slug = re.sub(r"[^a-z0-9]+", "-", device["device"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command,
        "device": dict(device),
        "versions": versions(),
        "parity": dict(parity),
    }
    return folder / f"{now:%Y%m%d-%H%M%S}-{slug}.json", head


def _asked(question: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer, None where it has none: a part of a GPU, or a container, may not be told."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None
