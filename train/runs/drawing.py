"""What a run that is done leaves for people to look at: its pictures, its page, and its model's card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from concord.train.outputs.names import METRICS_FILE, REPORT_FILE
from concord.train.reporter import Reporter
from concord.train.reports.state import RunState
from concord.train.reports.stored_log import StoredLog
from concord.train.reports.stored_run import StoredRun, read_run


def draw(entries: list[dict[str, Any]], directory: Path, steps: int, reporter: Reporter) -> None:
    """Draw curves.png, conflicts.png and report.html in the folder of a run.

    entries: of its log; steps: that it has done; reporter: is warned where pictures cannot be drawn.
    """
    try:
        from concord.train.outputs.plots import plot_conflicts, plot_curves
    except ImportError as error:  # matplotlib may be missing where runs only compute
        reporter.warn(f"no pictures are drawn ({error})")
        return
    plot_curves(entries, directory)
    plot_conflicts(entries, directory)
    leave(REPORT_FILE, _write_report, entries, directory, steps, reporter)


def leave(
    file: str,
    write: Callable[[StoredRun], None],
    entries: list[dict[str, Any]],
    directory: Path,
    steps: int,
    reporter: Reporter,
) -> None:
    """Have `write` write a file that tells of the run, as others read it from its folder; the rest as for `draw`.

    A warning where that fails, whatever the reason: the run is done, and the file can be written later.
    """
    try:
        log = StoredLog([(entries, 0)], directory / METRICS_FILE)
        write(read_run(directory, log=log, state=RunState("done", "", steps)))
    except Exception as error:
        reporter.warn(f"no {file} is written ({type(error).__name__}: {error})")


def _write_report(run: StoredRun) -> None:
    from concord.train.reports.page import write_report

    write_report(run)
