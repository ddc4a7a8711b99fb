"""The files that benchmark runs leave under bench/results/: read, checked, and put together as comparisons.

A comparison is a group, a name and a case; Concord and its peers are taken from one file, the newest of a device that
holds Concord's row.
"""

import json
import math
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, did_you_mean

GROUPS = ("kernels", "surgery", "step", "evaluation", "other")  # in the order of the tables
CONCORD, CHANGED = "concord", "+changes"
_NUMBERS = ("tokens_per_second", "examples_per_second", "padding_share", "peak_bytes", "host_synchronisations")


@dataclass(frozen=True)
class Row:
    """One measurement: seconds a round (median, 20th and 80th percentile; `floor` is the least possible, if known)."""

    group: str
    name: str
    case: dict[str, Any]
    peer: str
    median: float
    p20: float
    p80: float
    floor: float | None
    parity: tuple[str, ...]
    extra: dict[str, Any]

    @property
    def thread_median(self) -> float | None:
        """The median by the clock of the one thread that computed, None where several did, or a device."""
        seconds = self.extra.get("thread_seconds")
        return seconds["median"] if seconds else None

    @property
    def key(self) -> str:
        """What peers of one comparison share."""
        return json.dumps([self.group, self.name, self.case], sort_keys=True)

    def time_text(self) -> tuple[str, str]:
        """The median with its unit, to three figures, and the spread in the same unit."""
        unit, factor = ("s", 1) if self.median >= 1 else ("ms", 1e3) if self.median >= 1e-3 else ("us", 1e6)
        decimals = max(0, 2 - math.floor(math.log10(self.median * factor)))
        median, p20, p80 = (f"{seconds * factor:.{decimals}f}" for seconds in (self.median, self.p20, self.p80))
        return f"{median} {unit}", f"{p20}-{p80}"

    def case_text(self) -> str:
        """The case as a reader takes it in."""
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.case.items())


@dataclass(frozen=True, eq=False)
class ResultFile:
    """What one benchmark run left; `parity` counts the passed and failed tests of each module."""

    label: str
    date: datetime
    commit: str
    command: str
    device: dict[str, Any]
    versions: dict[str, str]
    parity: dict[str, dict[str, int]]
    rows: tuple[Row, ...]

    @property
    def on_gpu(self) -> bool:
        """Whether it was measured on a GPU: only those have a driver."""
        return "driver" in self.device

    @property
    def changed(self) -> bool:
        """Whether the source differed from the commit."""
        return self.commit.endswith(CHANGED)


@dataclass(frozen=True)
class Comparison:
    """Concord's row and its peers' by name, from one file."""

    file: ResultFile
    concord: Row
    peers: dict[str, Row]

    def refused(self, peer: str) -> str:
        """Why there is no ratio to the peer: a module of its parity tests failed, or none of its tests passed or ran.

        Empty where parity is proven.
        """
        found = [self.file.parity.get(module) for module in (*self.concord.parity, *self.peers[peer].parity)]
        if any(counts is not None and counts["failed"] > 0 for counts in found):
            return "parity fails"
        return "parity not shown" if any(counts is None or counts["passed"] == 0 for counts in found) else ""

    def comparable(self) -> dict[str, Row]:
        """Concord's row and those of the peers whose ratio is not refused, by name."""
        return {CONCORD: self.concord} | {name: row for name, row in self.peers.items() if not self.refused(name)}


def parse_results(text: str | bytes, label: str) -> ResultFile:
    """The content of one file of results; InputError naming `label` and what is missing or wrong."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{label}: not JSON ({error})") from None
    commit = _field(content, "commit", (str, type(None)), label)
    parity = _field(content, "parity", dict, label)
    for module, counts in parity.items():
        for outcome in ("passed", "failed"):
            _field(counts, outcome, int, f"{label}: parity of {module}")
    device = _field(content, "device", dict, label)
    _field(device, "device", str, f"{label}: device")
    rows = [_row(row, f"{label}: row {n}") for n, row in enumerate(_field(content, "rows", list, label), start=1)]
    seen = {}
    for number, row in enumerate(rows, start=1):
        first = seen.setdefault((row.key, row.peer), number)
        if first != number:
            raise InputError(f"{label}: rows {first} and {number} measure the same, expected one row a case and peer")
    return ResultFile(
        label,
        _date(_field(content, "date", str, label), label),
        commit or "none",
        _field(content, "command", str, label),
        device,
        _field(content, "versions", dict, label),
        parity,
        tuple(rows),
    )


def read_results(directory: Path) -> list[ResultFile]:
    """Every file of results in `directory`; InputError where it is no folder or one of them cannot be used."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder, expected the one that pytest bench/ --benchmark-only writes to")
    files = []
    for path in sorted(directory.glob("*.json")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        files.append(parse_results(content, str(path)))
    return files


def read_committed(directory: Path, revision: str) -> list[ResultFile]:
    """The files of results that `directory` held at a git revision; InputError where git or the revision fails."""

    def git(*arguments: str) -> bytes:
        try:
            return subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=True).stdout
        except OSError as error:
            raise InputError(f"git cannot be run ({error.strerror}), expected it for --compare") from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.decode(errors="replace").strip() or "no reason given").splitlines()[0]
            raise InputError(f"--compare {revision}: git {arguments[0]} failed ({reason})") from None

    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    names = git("ls-tree", "-z", "--name-only", commit).decode().split("\0")
    return [
        parse_results(git("show", f"{commit}:./{name}"), f"{revision}:{name}")
        for name in names
        if name.endswith(".json")
    ]


def newest_comparisons(files: Iterable[ResultFile]) -> dict[str, list[Comparison]]:
    """Device -> each comparison with a row of Concord's from its newest file, in the tables' order; GPUs come first."""
    found: dict[str, dict[str, Comparison]] = {}
    for file in sorted(files, key=lambda file: (file.date, file.label)):
        peers: dict[str, dict[str, Row]] = {}
        for row in file.rows:
            peers.setdefault(row.key, {})[row.peer] = row
        for key, rows in peers.items():
            if CONCORD in rows:
                others = {peer: row for peer, row in rows.items() if peer != CONCORD}
                found.setdefault(file.device["device"], {})[key] = Comparison(file, rows[CONCORD], others)
    devices = {device: sorted(chosen.values(), key=_order) for device, chosen in found.items()}
    return dict(sorted(devices.items(), key=lambda item: (not item[1][0].file.on_gpu, item[0])))


def _field(content: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise InputError(f"{where}: {name!r} is missing")
    if not isinstance(content[name], kind):
        kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where}: {name!r} is {type(content[name]).__name__}, expected {kinds}")
    return content[name]


def _row(content: Any, where: str) -> Row:
    group = _field(content, "group", str, where)
    if group not in GROUPS:
        raise InputError(f"{where}: group {group!r}, {did_you_mean(group, GROUPS)}")
    seconds = _field(content, "seconds", dict, where)
    times = {name: _field(seconds, name, (int, float), f"{where}: seconds") for name in ("median", "p20", "p80")}
    floor = _field(content, "floor_seconds", (int, float, type(None)), where)
    for name, value in times.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{where}: seconds: {name!r} is {value}, expected a finite time above 0")
    if floor is not None and not (floor >= 0 and math.isfinite(floor)):
        raise InputError(f"{where}: 'floor_seconds' is {floor}, expected a finite time or null")
    names = {name: _field(content, name, str, where) for name in ("name", "peer")}
    fields = {name: _field(content, name, dict, where) for name in ("case", "extra")}
    for name in _NUMBERS:
        if name in fields["extra"]:
            _field(fields["extra"], name, (int, float, type(None)), f"{where}: extra")
    if "thread_seconds" in fields["extra"]:
        own = _field(fields["extra"], "thread_seconds", dict, f"{where}: extra")
        if not _field(own, "median", (int, float), f"{where}: thread_seconds") > 0:
            raise InputError(f"{where}: thread_seconds: 'median' is {own['median']}, expected a time above 0")
    parity = _field(content, "parity", list, where)
    return Row(group=group, floor=floor, parity=tuple(map(str, parity)), **times, **names, **fields)


def _date(text: str, label: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{label}: 'date' is {text!r}, expected one such as 2026-01-31T12:00:00+00:00") from None
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


def _order(comparison: Comparison) -> tuple[Any, ...]:
    row = comparison.concord
    case = [(k, isinstance(v, str), v if isinstance(v, int | float) else 0, str(v)) for k, v in row.case.items()]
    return GROUPS.index(row.group), row.name, sorted(case)
