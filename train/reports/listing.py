"""The runs in a folder and below it, a row each: how they stand, and what came of them."""

import os
from collections.abc import Iterator
from pathlib import Path

from concord.bert.errors import InputError, one_line
from concord.bert.files import read_json_object
from concord.train.outputs.names import SUMMARY_FILE, seed_folder
from concord.train.reports.comparing import NOTHING, number, shown
from concord.train.reports.members import is_seeds, read_seed_numbers
from concord.train.reports.spread import spread_of
from concord.train.reports.state import is_run, state_of

HEADER = ["state", "step", "mean", "finished", "run"]
_LONGEST_REASON = 120  # characters


def run_folders(directory: Path) -> Iterator[Path]:
    """The runs in a folder, itself or below it, sorted, and a folder of several seeds before its runs; links are not
    followed. InputError where it is no folder."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder, expected one with runs in it")
    for place, below, _ in os.walk(directory):
        if is_run(Path(place)):
            below.clear()  # a run holds no other
            yield Path(place)
        elif is_seeds(Path(place)):
            yield Path(place)
        below.sort()


def row_of(directory: Path) -> list[str]:
    """The cells of a run, as `HEADER` names them; the last one ends with the reason where a run failed."""
    if is_seeds(directory):
        return _row_of_seeds(directory)
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


def _row_of_seeds(directory: Path) -> list[str]:
    """The cells of several seeds: how many stand how, and the mean of those that are done."""
    try:
        seeds = read_seed_numbers(directory)
    except InputError as error:
        return ["failed", NOTHING, NOTHING, NOTHING, f"{directory}  ({one_line(str(error), _LONGEST_REASON)})"]
    rows = [row_of(folder) for folder in (directory / seed_folder(seed) for seed in seeds) if is_run(folder)]
    done = [row for row in rows if row[0] == "done"]
    means = spread_of(float(row[2]) for row in done if row[2] != NOTHING)
    finished = max((row[3] for row in done), default=NOTHING) if len(done) == len(seeds) else NOTHING
    return [f"{len(done)}/{len(seeds)} done", NOTHING, shown(means), finished, f"{directory}  ({len(seeds)} seeds)"]
