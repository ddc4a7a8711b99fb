"""A profile as a table."""

from collections.abc import Mapping
from typing import Any


def profile_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row of cells for each class, and the names of the cells first."""
    rows = [["class of op", "ms a step", "share", "calls", "MB a step", "share of the limit"]]
    for own in report["classes"]:
        share = own["seconds"] / report["seconds"] if report["seconds"] else 0.0
        rows.append(
            [
                own["name"],
                f"{own['seconds'] * 1e3:.3f}",
                f"{share:.0%}",
                f"{own['launches']:.1f}",
                "-" if own["bytes"] is None else f"{own['bytes'] / 1e6:.2f}",
                "-" if own["share_of_limit"] is None else f"{own['share_of_limit']:.0%}",
            ]
        )
    return rows


def profile_lines(report: Mapping[str, Any]) -> list[str]:
    """The table as text."""
    rows = profile_rows(report)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    first = f"profile    {report['steps']} steps, {report['seconds'] * 1e3:.2f} ms each under the profiler"
    return [first, *("  ".join(cell.ljust(widths[n]) for n, cell in enumerate(row)).rstrip() for row in rows)]
