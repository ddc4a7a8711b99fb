"""The figure of a run's page that comes from its profile: the time of some steps by class of op."""

from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import read_json_object
from concord.train.outputs.names import PROFILE_FILE
from concord.train.profiles.rows import profile_rows
from concord.train.reports.figures import Figure
from concord.train.reports.stored_run import StoredRun

_NUMBER = (int, float)
_CELLS = {
    "name": str,
    "seconds": _NUMBER,
    "launches": _NUMBER,
    "bytes": (*_NUMBER, type(None)),
    "share_of_limit": (*_NUMBER, type(None)),
}


def profile_of(run: StoredRun) -> list[Figure]:
    """The table of a profile, nothing where the run has none; InputError where its file is damaged."""
    path = run.directory / PROFILE_FILE
    if not path.is_file():
        return []
    report = read_json_object(path, "the profile of a run")
    if not _sound(report):
        raise InputError(f"{path}: not the profile of a run of this version")
    header, *rows = profile_rows(report)
    note = (
        f"{report['steps']} steps under the profiler, which slows them down. Bytes are of the tensors that ops were "
        "given; the limit is that of copies or of matrix products, as measured on the device."
    )
    return [Figure("steps by class of op", header=header, rows=rows, note=note)]


def _sound(report: dict[str, Any]) -> bool:
    classes = report.get("classes")
    whole = all(isinstance(report.get(name), _NUMBER) for name in ("steps", "seconds")) and isinstance(classes, list)
    return whole and all(
        isinstance(row, dict) and all(name in row and isinstance(row[name], kind) for name, kind in _CELLS.items())
        for row in classes
    )
