"""README's rows of speed: the whole training step on the newest GPU and CPU, beside the peers that users know."""

from bench.result_files import Comparison, Row

_NAME, _PEERS = "training step with PCGrad", ("faithful", "best of stock")
_LENGTHS = {"course": "course lengths", "data": "the data's lengths"}
_HEADER = ("on", "what", "Concord", "of the limit", "the papers' trainer", "best of stock PyTorch")


def headline(devices: dict[str, list[Comparison]]) -> str:
    """The table between README's markers, from `newest_comparisons`; a row a precision, of the newest device of a kind.

    Only steps of three tasks at the lengths of real data are shown. Where one thread computed, times are by its own
    clock. A kind of device without such a step is said to be not measured.
    """
    shown = [c for found in devices.values() for c in found if _is_shown(c)]
    lines = [_HEADER, ("---",) * len(_HEADER)]
    for kind, on_gpu in (("GPU", True), ("CPU", False)):
        members = [c for c in shown if c.file.on_gpu == on_gpu]
        if not members:
            lines.append((kind, "a training step with PCGrad", "not yet measured", "", "", ""))
            continue
        newest = max(members, key=lambda c: c.file.date).file.device["device"]
        lines += [_cells(kind, c) for c in members if c.file.device["device"] == newest]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _is_shown(comparison: Comparison) -> bool:
    row = comparison.concord
    return row.name == _NAME and row.case.get("tasks") == 3 and row.case.get("lengths") in _LENGTHS


def _cells(kind: str, comparison: Comparison) -> tuple[str, ...]:
    row, device = comparison.concord, comparison.file.device
    case = row.case
    threads = "" if comparison.file.on_gpu else f", threads {device['threads']}"
    name = str(device["device"]).removeprefix("CPU (").removesuffix(")").partition(",")[0]
    return (
        f"{kind}, {case['dtype']} ({name}{threads})",
        f"a training step with PCGrad: {case['model']}, 3 tasks of {case['batch']}, {_LENGTHS[case['lengths']]}",
        f"{_seconds(row):.3g} s",
        "" if row.floor is None else f"{row.floor / _seconds(row):.0%}",
        *(_ratio(comparison, peer) for peer in _PEERS),
    )


def _ratio(comparison: Comparison, peer: str) -> str:
    if peer not in comparison.peers:
        return "not measured"
    return (
        comparison.refused(peer)
        or f"{_seconds(comparison.peers[peer]) / _seconds(comparison.concord):.1f} times as long"
    )


def _seconds(row: Row) -> float:
    """The median, by the clock of the thread that computed where there was one."""
    return row.thread_median or row.median
