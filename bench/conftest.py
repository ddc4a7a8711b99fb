"""Options of the benchmarks, and the file of results that every run leaves."""

import functools
import gc
import json
import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from concord.train.threads import settle_threads

settle_threads()  # as the commands do, before torch is loaded

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import Contestant, Turns
from bench.lengths import load_splits, read_lengths, splits_of_lengths
from bench.measure import device_record, results_file, take_defaults
from bench.parity import read_parity
from concord.bert.files import replacing
from concord.kernels.measure import FLUSH_BYTES, EventTimer, Timing, Work, measure_limits, summarise
from concord.train.data.tokenized import TokenizedSplit

RESULTS = Path(__file__).parent / "results"
_rows: list[dict[str, Any]] = []
_taken: dict[str, str] = {}  # what computes

Recorder = Callable[..., Timing]
RecordContest = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """--data DIR, --results DIR, --parity PATH."""
    parser.addoption(
        "--data",
        default="",
        help="course-layout folder to take the batches from (default: random tokens at the course data's lengths)",
    )
    parser.addoption("--results", default=str(RESULTS), help="folder of the file of results (default bench/results)")
    parser.addoption(
        "--parity",
        default="",
        help="JUnit file of the parity tests' last run on this device, or a folder of them, as python -m bench.parity "
        "leaves it; ratios need them to pass",
    )


@pytest.fixture(scope="session")
def device() -> torch.device:
    """What is measured: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True, scope="session")
def computed_by() -> dict[str, str]:
    """What a run takes by default computes: see `take_defaults`."""
    _taken.update(take_defaults())
    return _taken


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kernels that torch.compile makes, each in seconds, come last: a run may be cut off."""
    items.sort(key=lambda item: "torch.compile" in item.name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """What does not fit the device's memory is skipped, and the rest goes on."""
    try:
        return (yield)
    except torch.OutOfMemoryError as error:
        # The traceback holds the frames, and they what the next test needs the room of.
        traceback.clear_frames(error.__traceback__)
        pytest.skip("out of memory")


@pytest.fixture(autouse=True)
def _free_memory(device: torch.device) -> None:
    """What earlier tests left is neither counted as a test's own nor in its way."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def training_splits(request: pytest.FixtureRequest) -> dict[str, TokenizedSplit]:
    """Task -> training set: of --data, or random tokens at the course data's lengths."""
    data = request.config.getoption("--data")
    return load_splits(data, "train") if data else splits_of_lengths(read_lengths())


@pytest.fixture(scope="session")
def lengths_name(request: pytest.FixtureRequest) -> str:
    """Whose lengths those are, for the case of a row."""
    return "data" if request.config.getoption("--data") else "course"


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark: BenchmarkFixture, device: torch.device) -> Recorder:
    """Time a function by way of pytest-benchmark, and keep the row for the file of results.

    on_host: whether the function works on the host alone, and is timed by the clock on a GPU too.
    """

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
        on_host: bool = False,
    ) -> Timing:
        extra = dict(extra or {})
        if device.type == "cuda" and not on_host:
            timer = EventTimer(device)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            benchmark.pedantic(lambda: timer.time(function), rounds=rounds, warmup_rounds=warm_up)
            seconds = timer.seconds()[warm_up:]
            extra.setdefault("peak_bytes", torch.cuda.max_memory_allocated() - FLUSH_BYTES)
        else:
            benchmark.pedantic(function, rounds=rounds, warmup_rounds=warm_up)
            seconds = list(benchmark.stats.stats.data)
        timing = summarise(seconds)
        measured = Contestant(run=function, case=case, peer=peer, work=work, parity=parity, extra=extra)
        row = _row(group, name, measured, timing, device)
        benchmark.extra_info.update(row)
        _rows.append(row)
        _write(request.config)
        return timing

    return run


@pytest.fixture
def record_contest(request: pytest.FixtureRequest, benchmark: BenchmarkFixture, device: torch.device) -> RecordContest:
    """Time contestants in turn on a CPU, and keep a row of each; a round of pytest-benchmark is one of all of them."""

    def run(contestants: Sequence[Contestant], *, group: str, name: str, rounds: int, warm_up: int = 1) -> None:
        turns = Turns(contestants)
        benchmark.pedantic(turns.take, rounds=rounds, warmup_rounds=warm_up)
        for contestant, (wall, thread), peak in zip(contestants, turns.timings(warm_up), turns.peaks(), strict=True):
            own: dict[str, Any] = {"thread_seconds": asdict(thread)} if thread else {}
            own |= {} if peak is None else {"peak_bytes": peak}
            measured = replace(contestant, extra={**contestant.extra, **own})
            _rows.append(_row(group, name, measured, wall, device))
        _write(request.config)

    return run


def _row(group: str, name: str, measured: Contestant, timing: Timing, device: torch.device) -> dict[str, Any]:
    extra, work = dict(measured.extra), measured.work
    for unit in ("tokens", "examples"):
        if unit in extra:
            extra[f"{unit}_per_second"] = round(extra[unit] / timing.median, 1)
    return {
        "group": group,
        "name": name,
        "case": measured.case,
        "peer": measured.peer,
        "seconds": asdict(timing),
        "floor_seconds": work.floor(measure_limits(device)) if work else None,
        "parity": list(measured.parity),
        "extra": extra,
    }


def _write(config: pytest.Config) -> None:
    """Write the file of results anew after each row, so that a run that is cut off leaves what it has measured."""
    path, header = _file(config)
    with replacing(path) as beside:
        beside.write_text(json.dumps(header | {"rows": _rows}, indent=1) + "\n", encoding="utf-8")


@functools.cache
def _file(config: pytest.Config) -> tuple[Path, dict[str, Any]]:
    """Where this run's results go, and what they are of."""
    parity = read_parity(Path(given)) if (given := config.getoption("--parity")) else {}
    device = device_record(torch.device("cuda" if torch.cuda.is_available() else "cpu")) | _taken
    return results_file(Path(config.getoption("--results")), _command(config), device, parity)


def _command(config: pytest.Config) -> str:
    """The command that measured, with folders of this machine left out."""
    arguments, skip = ["pytest"], False
    for argument in config.invocation_params.args:
        name = str(argument).split("=")[0]
        if not skip and name not in ("--results", "--parity"):
            arguments.append("DIR" if arguments[-1] == "--data" else str(argument))
        skip = name in ("--results", "--parity") and "=" not in str(argument)
    return shlex.join(arguments)
