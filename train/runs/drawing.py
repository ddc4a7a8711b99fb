"""What a run that is done draws of itself: its pictures, and its page."""

from pathlib import Path
from typing import Any

from concord.train.outputs.names import METRICS_FILE, REPORT_FILE
from concord.train.reporter import Reporter


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
    _report(entries, directory, steps, reporter)


def _report(entries: list[dict[str, Any]], directory: Path, steps: int, reporter: Reporter) -> None:
    """A warning where the page fails, whatever the reason: the run is done, and its page can be drawn later."""
    try:
        from concord.train.reports.page import write_report
        from concord.train.reports.state import RunState
        from concord.train.reports.stored_log import StoredLog
        from concord.train.reports.stored_run import read_run

        log = StoredLog([(entries, 0)], directory / METRICS_FILE)
        write_report(read_run(directory, log=log, state=RunState("done", "", steps)))
    except Exception as error:
        reporter.warn(f"no {REPORT_FILE} is written ({type(error).__name__}: {error})")
