"""What torch's operators and the native kernels worked on, from the shapes that a profiler has recorded: bytes that
they were given, and operations of matrix products."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from concord.kernels.measure import Limits
from concord.train.profiles.kernel_classes import OTHER, PRODUCTS, class_of

_DTYPES = {
    "float": torch.float32,
    "double": torch.float64,
    "int": torch.int32,
    "long": torch.int64,
    "long int": torch.int64,
    "bool": torch.bool,
    "unsigned char": torch.uint8,
    "signed char": torch.int8,
    "c10::BFloat16": torch.bfloat16,
    "c10::Half": torch.float16,
}

_OF_MATRICES = {f"aten::{name}" for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "mv", "dot")}
_UNKNOWN = "unknown"  # in place of a dtype


@dataclass
class Work:
    """The work of a class of ops, at least.

    Attributes:
        bytes: of the tensors that its ops were given, and of products' results.
        operations: of matrix products, by the name of their dtype.
    """

    bytes: float = 0.0
    operations: dict[str, float] = field(default_factory=dict)

    def floor(self, limits: Limits) -> float | None:
        """Seconds that it takes at the device's measured limits; None where one of its products' has none."""
        if not self.operations.keys() <= limits.products.keys():
            return None
        multiplied = sum(count / limits.products[name] for name, count in self.operations.items())
        return max(self.bytes / limits.copy, multiplied)


def work_of(events: Iterable[Any]) -> dict[str, Work]:
    """Class -> its work, of a profiler's events that have shapes and dtypes. Ops of no class have none, and of ops of
    one class within one another the innermost count."""
    found: dict[str, Work] = {}
    for event in events:
        own, shapes, dtypes = class_of(event.name), event.input_shapes, getattr(event, "input_dtypes", None)
        if own == OTHER or not shapes or not dtypes or any(class_of(child.name) == own for child in event.cpu_children):
            continue
        sized = [(shape, _DTYPES[name]) for shape, name in zip(shapes, dtypes, strict=False) if name in _DTYPES]
        work = found.setdefault(own, Work())
        work.bytes += sum(math.prod(shape) * dtype.itemsize for shape, dtype in sized)
        if own == PRODUCTS:
            _add_product(work, event.name, sized)
    return found


def _add_product(work: Work, name: str, sized: Sequence[tuple[Sequence[int], torch.dtype]]) -> None:
    """Add the operations of a product, and the bytes of its result: of [.., m, k] and [.., k, n], the last two that it
    is given. Of other products nothing is known, and the class then has no share of a limit."""
    if name not in _OF_MATRICES or len(sized) < 2:
        work.operations[_UNKNOWN] = 0.0
        return
    (left, dtype), (right, _) = sized[-2:]
    columns = right[-1] if len(right) > 1 else 1
    kind = str(dtype).removeprefix("torch.")
    work.operations[kind] = work.operations.get(kind, 0.0) + 2 * math.prod(left) * columns
    work.bytes += math.prod(left[:-1]) * columns * dtype.itemsize


def with_work(
    classes: Sequence[Mapping[str, Any]], work: Mapping[str, Work], steps: int, limits: Limits | None
) -> list[dict[str, Any]]:
    """Rows of classes, of `summarise_events`, with bytes and operations a step, and the share of the device's limit;
    None where it is not known."""
    rows = []
    for row in classes:
        own = work.get(row["name"])
        floor = own.floor(limits) if own and limits else None
        known = own is not None and _UNKNOWN not in own.operations
        rows.append(
            {
                **row,
                "bytes": own.bytes / steps if own else None,
                "operations": sum(own.operations.values()) / steps if known and own.operations else None,
                "share_of_limit": floor / steps / row["seconds"] if floor is not None and row["seconds"] > 0 else None,
            }
        )
    return rows
