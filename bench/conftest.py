"""Options of the benchmarks, and the file of results that every run leaves."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import EventTimer, Timing, Work, device_record, measure_limits, summarise
from train.report import commit, versions

RESULTS = Path(__file__).parent / "results"
_rows: list[dict[str, Any]] = []

Recorder = Callable[..., Timing]


def pytest_addoption(parser: pytest.Parser) -> None:
    """--data DIR, --results DIR, --parity FILE."""
    parser.addoption(
        "--data", default="demo", help="data set to take the batches from: demo, or a course-layout folder"
    )
    parser.addoption("--results", default=str(RESULTS), help="folder of the file of results (default bench/results)")
    parser.addoption(
        "--parity", default="", help="JUnit file of the parity tests' last run on this device; ratios need them to pass"
    )


@pytest.fixture(scope="session")
def device() -> torch.device:
    """What is measured: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def record(benchmark: BenchmarkFixture, device: torch.device) -> Recorder:
    """Time a function by way of pytest-benchmark, and keep the row for the file of results."""

    def run(
        function: Callable[[], Any],
        *,
        group: str,
        name: str,
        case: dict[str, Any],
        peer: str = "concord",
        work: Work | None = None,
        parity: tuple[str, ...] = (),
        rounds: int = 8,
        warm_up: int = 2,
        extra: dict[str, Any] | None = None,
    ) -> Timing:
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            timer = EventTimer(device)
            benchmark.pedantic(lambda: timer.time(function), rounds=rounds, warmup_rounds=warm_up)
            seconds = timer.seconds()[warm_up:]
        else:
            benchmark.pedantic(function, rounds=rounds, warmup_rounds=warm_up)
            seconds = list(benchmark.stats.stats.data)
        timing = summarise(seconds)
        extra = dict(extra or {})
        if device.type == "cuda":
            extra["peak_bytes"] = torch.cuda.max_memory_allocated()
        for unit in ("tokens", "examples"):
            if unit in extra:
                extra[f"{unit}_per_second"] = round(extra[unit] / timing.median, 1)
        row = {
            "group": group,
            "name": name,
            "case": case,
            "peer": peer,
            "seconds": asdict(timing),
            "floor_seconds": work.floor(measure_limits(device)) if work else None,
            "parity": list(parity),
            "extra": extra,
        }
        benchmark.extra_info.update(row)
        _rows.append(row)
        return timing

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file of results, if anything was measured."""
    if not _rows:
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    now = datetime.now(UTC)
    described = device_record(device)
    slug = re.sub(r"[^a-z0-9]+", "-", described["device"].lower()).strip("-")
    folder = Path(session.config.getoption("--results"))
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "command": _command(session.config),
        "device": described,
        "versions": versions(),
        "parity": _parity(session.config.getoption("--parity")),
        "rows": _rows,
    }
    path = folder / f"{now:%Y%m%d-%H%M%S}-{slug}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _command(config: pytest.Config) -> str:
    """The command that measured, with folders of this machine left out."""
    arguments, skip = ["pytest"], False
    for argument in config.invocation_params.args:
        name = str(argument).split("=")[0]
        if not skip and name not in ("--results", "--parity"):
            arguments.append("DIR" if arguments[-1] == "--data" else str(argument))
        skip = name in ("--results", "--parity") and "=" not in str(argument)
    return " ".join(arguments)


def _parity(path: str) -> dict[str, dict[str, int]]:
    """Test module -> how many of its tests passed, failed and were skipped, from a JUnit file; {} without one."""
    counts: dict[str, dict[str, int]] = {}
    if not path:
        return counts
    for test in ElementTree.parse(path).iter("testcase"):
        module = test.get("classname", "").replace(".", "/") + ".py"
        found = {child.tag for child in test}
        outcome = "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"
        counts.setdefault(module, {"passed": 0, "failed": 0, "skipped": 0})[outcome] += 1
    return counts
