"""What a profiler has seen: kernels by class of op, with seconds and launches, and on what they worked."""

from collections import Counter, defaultdict
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import profile

from concord.train.profiles.kernel_classes import class_of, is_wait

GAPS = "gaps"
_SUMMED = ("seconds", "launches")  # of a class's kernels

Events = list[tuple[str, float]]
"""Name and seconds of each kernel, copy or operator."""


def events_of(profiler: profile, on_gpu: bool) -> Events:
    """What the device did: its kernels and copies, or on a CPU torch's operators, each without those within it."""
    if on_gpu:
        return [
            (event.name, event.time_range.elapsed_us() * 1e-6)
            for event in profiler.events()
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation and not is_wait(event.name)
        ]
    return [(event.name, event.self_cpu_time_total * 1e-6) for event in profiler.events()]


def summarise_events(events: Events, steps: int, seconds: float) -> dict[str, Any]:
    """Classes and kernels, the longest first, with seconds and launches a step; `seconds` are by the clock, of all."""
    spent: dict[str, float] = defaultdict(float)
    for name, own in events:
        spent[name] += own
    counts = Counter(name for name, _ in events)
    kernels = [
        {"name": name, "class": class_of(name), "seconds": own / steps, "launches": counts[name] / steps}
        for name, own in sorted(spent.items(), key=lambda item: -item[1])
    ]
    classes = [
        {"name": label, **{key: sum(own[key] for own in kernels if own["class"] == label) for key in _SUMMED}}
        for label in {kernel["class"] for kernel in kernels}
    ]
    gaps = {"name": GAPS, "seconds": seconds / steps - sum(own["seconds"] for own in kernels), "launches": 0}
    return {"classes": [*sorted(classes, key=lambda own: -own["seconds"]), gaps], "kernels": kernels}
