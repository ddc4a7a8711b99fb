"""The benchmarks' results as tables of docs/performance.md and README and as plots: python -m bench.report.

--compare REV prints what has changed instead.
A ratio is given only where the tests of parity that its rows name have passed in the file that it comes from.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.headline import headline
from bench.page_sections import ROOT, update_page
from bench.report_plots import draw_plots
from bench.result_files import (
    CHANGED,
    CONCORD,
    GROUPS,
    Comparison,
    ResultFile,
    Row,
    newest_comparisons,
    read_committed,
    read_results,
)
from concord.train.command import run_command
from concord.train.flags import OneLineParser

_LEGEND = (
    "Times are medians (20th to 80th percentile). Of the limit: the least time that the device's measured copy "
    "bandwidth and product rate allow, over the median. Ratios: the peer's median over Concord's, and of peak memory "
    "the peer's bytes over Concord's. Host synchronisations: how often a step makes the host wait for the GPU; on a "
    "CPU, how many of the references' operations would. Thread: by the CPU clock of the thread that computed, which "
    "does not count what else the machine did."
)


def markdown(devices: dict[str, list[Comparison]]) -> str:
    """What stands between the page's markers: a section a device, with a table a group."""
    parts = [] if any(found[0].file.on_gpu for found in devices.values()) else ["Not yet measured on a GPU."]
    parts += [_LEGEND] if devices else []
    for device, comparisons in devices.items():
        files = sorted({c.file for c in comparisons}, key=lambda file: (file.date, file.label), reverse=True)
        # A row is told its file's number only where there are several files.
        marks = {file: f" [{number}]" if len(files) > 1 else "" for number, file in enumerate(files, start=1)}
        parts.append(f"### {device}")
        parts += [f"{marks[file]} {_provenance(file)}".strip() for file in files]
        for group in GROUPS:
            members = [c for c in comparisons if c.concord.group == group]
            if members:
                parts.append(_table(group, members, marks))
    return "\n\n".join(parts)


def print_changes(before: dict[str, list[Comparison]], after: dict[str, list[Comparison]], revision: str) -> None:
    """Print Concord's medians at `revision` and now, of each comparison that a device has in both."""
    table = Table(title=Text(f"Concord's median at {revision} and now; above 1x is faster now"))
    for column in ("device", "name", "case", "before", "after", "before / after"):
        table.add_column(column, overflow="fold")
    for device, comparisons in after.items():
        earlier = {c.concord.key: c for c in before.get(device, ())}
        for now in comparisons:
            if then := earlier.get(now.concord.key):
                times = [f"{c.concord.time_text()[0]}{' ' + CHANGED if c.file.changed else ''}" for c in (then, now)]
                cells = (device, now.concord.name, now.concord.case_text(), *times, _ratio(then.concord, now.concord))
                table.add_row(*map(Text, cells))
    Console().print(table if table.rows else f"no comparison was measured both at {revision} and now", markup=False)


def _provenance(file: ResultFile) -> str:
    device = [file.device["device"]]
    device += [
        f"{name} {file.device[name]}" for name in ("driver", "threads", "kernels", "products") if name in file.device
    ]
    versions = [f"{name} {version}" for name, version in file.versions.items()]
    commit = file.commit.removesuffix(CHANGED)[:10] + (CHANGED if file.changed else "")
    return f"{', '.join(device + versions)}; commit {commit}, {file.date:%Y-%m-%d %H:%M} UTC: `{file.command}`"


def _table(group: str, members: list[Comparison], marks: dict[ResultFile, str]) -> str:
    """One group as a Markdown table, without the columns that none of its rows has anything for."""
    peers = list(dict.fromkeys(peer for c in members for peer in c.peers))
    header = [group, "case", "Concord", "of the limit", *peers, "tokens/s", "examples/s", "padding of the peers"]
    header += ["peak memory", "host synchronisations"]
    lines = [_cells(c, peers, marks[c.file]) for c in members]
    kept = [n for n in range(len(header)) if any(line[n] for line in lines)]
    rows = [header, *lines]
    written = ["| " + " | ".join(row[n].replace("|", "\\|") for n in kept) + " |" for row in rows]
    return "\n".join([written[0], "|---" * len(kept) + "|", *written[1:]])


def _cells(comparison: Comparison, peers: list[str], mark: str) -> list[str]:
    row = comparison.concord
    median, spread = row.time_text()
    ratios = [
        comparison.refused(peer) or _ratio(comparison.peers[peer], row) if peer in comparison.peers else ""
        for peer in peers
    ]
    tokens, examples = (row.extra.get(f"{unit}_per_second") for unit in ("tokens", "examples"))
    padding = {peer: other.extra.get("padding_share") for peer, other in comparison.peers.items()}
    return [
        row.name + (f" ({CHANGED})" if comparison.file.changed else "") + mark,
        row.case_text(),
        f"{median} ({spread})",
        "" if row.floor is None else _percent(row.floor / (row.thread_median or row.median)),
        *ratios,
        "" if tokens is None else f"{tokens:,.0f}",
        # Where tokens are not counted: of texts that each contestant tokenises by itself.
        "" if examples is None or tokens is not None else f"{examples:,.0f}",
        ", ".join(f"{peer} {_percent(share)}" for peer, share in padding.items() if share is not None),
        # What a kernel replays as a CUDA graph was allocated before.
        "" if row.group == "kernels" else _peak_memory(comparison),
        _synchronisations(comparison),
    ]


def _peak_memory(comparison: Comparison) -> str:
    """Concord's peak and the peers' over it, of those whose ratio is not refused."""
    peaks = {name: row.extra.get("peak_bytes") for name, row in comparison.comparable().items()}
    own = peaks.pop(CONCORD)
    if not own:
        return ""
    ratios = [f"{peer} {_times(peak / own)}" for peer, peak in peaks.items() if peak]
    return f"{own / 2**30:.2f} GiB" + (f" ({', '.join(ratios)})" if ratios else "")


def _synchronisations(comparison: Comparison) -> str:
    """Concord's and the peers' counts, of those that were counted."""
    rows = {"Concord": comparison.concord} | comparison.peers
    counts = {name: row.extra.get("host_synchronisations") for name, row in rows.items()}
    return ", ".join(f"{name} {count:g}" for name, count in counts.items() if count is not None)


def _ratio(other: Row, row: Row) -> str:
    """By the clock, and where one thread computed by that thread's own."""
    by_clock = _times(other.median / row.median)
    if row.thread_median is None or other.thread_median is None:
        return by_clock
    return f"{by_clock} (thread {_times(other.thread_median / row.thread_median)})"


def _times(ratio: float) -> str:
    return f"{ratio:.{1 if ratio >= 1 else 2}f}x"


def _percent(share: float) -> str:
    return f"{share:.{0 if share >= 0.1 or share == 0 else 1}%}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Update the page and draw the plots, or with --compare print what has changed; InputError for bad input."""
    parser = OneLineParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="file with the markers")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with the markers of its few rows")
    parser.add_argument("--compare", metavar="REV", help="only print what has changed since a git revision")
    given = parser.parse(arguments)
    devices = newest_comparisons(read_results(given.results))
    if given.compare is not None:
        print_changes(newest_comparisons(read_committed(given.results, given.compare)), devices, given.compare)
        return
    update_page(given.page, markdown(devices))
    update_page(given.readme, headline(devices))
    for path in (given.page, given.readme, *draw_plots(devices, given.results)):
        print(path)


if __name__ == "__main__":
    sys.exit(run_command(main))
