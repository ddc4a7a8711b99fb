"""What a whole run of the compilers found, in short: a JSON and a table in Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.resources.compiled import Resources
from bench.resources.targets import TARGETS, Target
from concord.train.outputs.provenance import commit, versions

# From which share of a target's registers or shared memory on a kernel is near the limit: a compiler's next version
# may take it beyond.
_NEAR = 0.95


@dataclass(frozen=True)
class Summary:
    """The kernels of one target and version of Triton: how many were compiled and are at fault, the most registers a
    thread and bytes of shared memory a program, and the names of those near a limit."""

    triton: str
    target: str
    compiled: int
    at_fault: int
    registers: int
    shared: int
    near: tuple[str, ...]


def _is_near(target: Target, resources: Resources) -> bool:
    return resources.registers >= _NEAR * target.registers or resources.shared >= _NEAR * target.shared


def summarize(found: Sequence[Resources]) -> list[Summary]:
    """One summary a version of Triton and target, in their order in `found`."""
    summaries = []
    for triton, name in dict.fromkeys((resources.triton, resources.target) for resources in found):
        own = [resources for resources in found if (resources.triton, resources.target) == (triton, name)]
        summaries.append(
            Summary(
                triton=triton,
                target=name,
                compiled=len(own),
                at_fault=sum(bool(resources.faults) for resources in own),
                registers=max(resources.registers for resources in own),
                shared=max(resources.shared for resources in own),
                near=tuple(sorted({resources.kernel for resources in own if _is_near(TARGETS[name], resources)})),
            )
        )
    return summaries


def table(summaries: Sequence[Summary]) -> str:
    """The summaries in Markdown."""
    lines = [
        "| Triton | target | kernels | at fault | most registers | most shared memory, bytes | near a limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summaries:
        target = TARGETS[row.target]
        lines.append(
            f"| {row.triton} | {row.target} | {row.compiled} | {row.at_fault} | {row.registers} of {target.registers} "
            f"| {row.shared:,} of {target.shared:,} | {', '.join(row.near) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def write_summary(folder: Path, command: str, found: Sequence[Resources]) -> None:
    """Write resources.json and resources.md to `folder`; command: what was run. OSError where it cannot be written."""
    summaries = summarize(found)
    packages = {name: version for name, version in versions().items() if name in ("python", "torch")}
    record: dict[str, Any] = {
        "command": command,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": packages,
        "summaries": [asdict(row) for row in summaries],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resources.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    source = ", ".join(f"{name} {version}" for name, version in packages.items())
    (folder / "resources.md").write_text(
        "# What compiled kernels take\n\n"
        f"`{command}`, commit {(record['commit'] or 'unknown')[:10]}, {record['date']}, {source}.\n"
        f"Compiled ahead of time, on no GPU; near a limit is from {_NEAR:.0%} on of the registers a thread or of the "
        "shared memory a\nprogram may have. No kernel spills, unless it is at fault.\n\n" + table(summaries),
        encoding="utf-8",
    )
