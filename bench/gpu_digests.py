"""What the summary of `bench/gpu.sh` shows of each stage: some lines of its log, or of the results that it measured."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from bench.result_files import Comparison, newest_comparisons, read_results
from bench.stages import Digest
from concord.bert.errors import InputError

_MOST_FAULTS = 6
_WIDE = 150  # characters of a line that many kernels share
# What tells one comparison of a stage from the others.
_TELLING = {
    "kernels": ("tokens",),
    "surgery": ("tasks",),
    "step": ("lengths",),
    "evaluation": ("examples",),
    "other": (),
}
_OP = re.compile(r"^(?! ).* FAILED  ")
_CASE = re.compile(r"^    \S.*: .* (passed|FAILED)  ")


def last(count: int) -> Digest:
    """The last lines of a log that are not empty."""
    return lambda log: _lines(log)[-count:]


def whole(most: int) -> Digest:
    """A log of few lines."""
    return lambda log: _lines(log)[:most]


def doctor(log: str) -> list[str]:
    """The verdict on all ops and those that failed, or where it was cut off those on the cases so far."""
    lines = log.splitlines()
    final = [line for line in lines if re.match(r"\d+ of \d+ ops passed", line)]
    if final:
        return [*final, *[line for line in lines if _OP.match(line)][:_MOST_FAULTS]]
    cases = [line for line in lines if _CASE.match(line)]
    if not cases:
        return _lines(log)[-1:]
    bad = [line.strip() for line in cases if " FAILED  " in line]
    return [f"{len(cases)} cases judged, {len(bad)} failed", *bad[:_MOST_FAULTS]]


def tests(log: str) -> list[str]:
    """pytest's counts, and the tests that failed."""
    lines = _lines(log)
    return [*lines[-1:], *[line for line in lines if re.match(r"(FAILED|ERROR) ", line)][:_MOST_FAULTS]]


def sanitizer(log: str) -> list[str]:
    """Its count and pytest's, and the first errors."""
    lines = _lines(log)
    counts = [line for line in lines if re.search(r"ERROR SUMMARY|RACECHECK SUMMARY|\d+ (passed|failed)", line)]
    errors = [line for line in lines if re.match(r"=+ (Invalid|Error|Race|Warning: Race|Program hit|Internal)", line)]
    return [*(counts[-2:] or lines[-1:]), *errors[:_MOST_FAULTS]]


def parity(log: str) -> list[str]:
    """How many modules passed, and those that did not."""
    lines = _lines(log)
    return [*lines[-1:], *lines[:-1][:_MOST_FAULTS]]


def training(log: str) -> list[str]:
    """What a run says of its kernels and of its speed, or its last line where it says nothing of the latter."""
    told = re.compile(r"(checked|kernels|graphs|warning:|best|speed) ")
    lines = [line for line in _lines(log) if told.match(line)]
    return lines if any(line.startswith("speed") for line in lines) else [*lines, *_lines(log)[-1:]]


def results(folder: Path) -> Digest:
    """A line for each comparison that lies in `folder`, and for kernels one for several; pytest's where there is none.

    Peers' ratios are the report's: there is none where parity is not proven.
    """

    def digest(log: str) -> list[str]:
        try:
            files = read_results(folder) if folder.is_dir() else []
        except InputError as error:
            return [str(error)]
        found = [comparison for own in newest_comparisons(files).values() for comparison in own]
        return [*_comparison_lines(found), *([] if found else tests(log))]

    return digest


def _comparison_lines(comparisons: list[Comparison]) -> Iterator[str]:
    for name, own in itertools.groupby(comparisons, key=lambda one: one.concord.group):
        if name != "kernels":
            yield from map(_line, own)
            continue
        members = list(own)
        most = max(one.concord.case["tokens"] for one in members)
        yield from _filled([_kernel(one) for one in members if one.concord.case["tokens"] == most], f"{most} tokens: ")


def _line(comparison: Comparison) -> str:
    row = comparison.concord
    case = ", ".join(f"{key} {row.case[key]}" for key in _TELLING[row.group] if key in row.case)
    limit = [f"{row.floor / row.median:.0%} of the limit"] if row.floor is not None else []
    told = ", ".join([*limit, *_ratios(comparison)])
    return f"{row.name if row.group == 'other' else case}: {row.time_text()[0]}{f' ({told})' if told else ''}"


def _kernel(comparison: Comparison) -> str:
    row = comparison.concord
    share = "" if row.floor is None else f" {row.floor / row.median:.0%}"
    told = ", ".join(_ratios(comparison))
    return f"{row.name} {row.time_text()[0]}{share}{f' ({told})' if told else ''}"


def _ratios(comparison: Comparison) -> Iterator[str]:
    """The peers' ratios, and why others have none."""
    refused = {peer: comparison.refused(peer) for peer in comparison.peers}
    for peer, why in refused.items():
        if not why:
            yield f"{peer} {comparison.peers[peer].median / comparison.concord.median:.1f}x"
    for reason in dict.fromkeys(filter(None, refused.values())):
        yield f"{reason}: {', '.join(peer for peer, why in refused.items() if why == reason)}"


def _filled(parts: list[str], head: str) -> Iterator[str]:
    """The parts on as few lines as hold them."""
    line = head
    for part in parts:
        if len(line) + len(part) > _WIDE and line.strip():
            yield line.rstrip("; ")
            line = "  "
        line += f"{part}; "
    yield line.rstrip("; ")


def _lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.strip()]
