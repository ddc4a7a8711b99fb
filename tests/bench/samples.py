"""Rows and files of results, as the benchmarks write them."""

import json

MODULE = "tests/kernels/test_gelu.py"


def row(name="gelu", peer="concord", median=2e-3, **more):
    """A row of results, whose spread is 10% to either side."""
    return {
        "group": "kernels",
        "name": name,
        "case": {"tokens": 4096, "dtype": "bfloat16"},
        "peer": peer,
        "seconds": {"median": median, "p20": 0.9 * median, "p80": 1.1 * median},
        "floor_seconds": None,
        "parity": [],
        "extra": {},
    } | more


def write(folder, rows, *, day=1, device="NVIDIA H200", **more):
    """A file of results in `folder`; returns its path."""
    limits = {"copy": 1e12, "products": {"float32": 1e13}}
    described = {"device": device, "limits": limits}
    described |= {"driver": "570.86"} if "NVIDIA" in device else {"threads": 2}
    content = {
        "date": f"2026-01-{day:02}T12:30:00+00:00",
        "commit": "0123456789abcdef",
        "command": "pytest bench/ --benchmark-only",
        "device": described,
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "parity": {},
        "rows": rows,
    } | more
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"202601{day:02}-123000-{device.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(content))
    return path
