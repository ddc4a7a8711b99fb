"""The runs in a folder and below it, a row each: how they stand, and what came of them."""

import os
from collections.abc import Iterator
from pathlib import Path

from concord.bert.errors import InputError, one_line
from concord.bert.files import read_json_object
from concord.train.outputs.names import SUMMARY_FILE
from concord.train.reports.comparing import NOTHING, number
from concord.train.reports.state import is_run, state_of

HEADER = ["state", "step", "mean", "finished", "run"]
_LONGEST_REASON = 120  # characters


def run_folders(directory: Path) -> Iterator[Path]:
    """The runs in a folder, itself or below it, sorted; links are not followed. InputError where it is no folder."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder, expected one with runs in it")
    for place, below, _ in os.walk(directory):
        if is_run(Path(place)):
            below.clear()  # a run holds no other
            yield Path(place)
        below.sort()


def row_of(directory: Path) -> list[str]:
    """The cells of a run, as `HEADER` names them; the last one ends with the reason where a run failed."""
    try:
        state = state_of(directory)
    except OSError as error:
        return ["failed", NOTHING, NOTHING, NOTHING, f"{directory}  ({error.strerror})"]
    summary = read_json_object(directory / SUMMARY_FILE, "the summary of a run") if state.name == "done" else {}
    mean, finished = summary.get("mean"), summary.get("finished")
    reason = f"  ({one_line(state.reason, _LONGEST_REASON)})" if state.reason else ""
    return [
        state.name,
        str(state.step),
        number(mean) if isinstance(mean, int | float) else NOTHING,
        one_line(finished, 25) if isinstance(finished, str) else NOTHING,
        f"{directory}{reason}",
    ]
