"""How a run stands, from what lies in its folder: done, running, stopped or failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from concord.bert.errors import InputError
from concord.bert.files import read_json_object
from concord.train.outputs.folders import has_state, lost_its_states
from concord.train.outputs.locks import held
from concord.train.outputs.log import MOST_SKIPPED
from concord.train.outputs.names import CONFIG_FILE, METRICS_FILE, PRETRAINING_FILE, SUMMARY_FILE
from concord.train.outputs.summary import is_void
from concord.train.reports.stored_log import last_entries
from concord.train.settings.files import read_config


@dataclass(frozen=True)
class RunState:
    """How a run stands.

    Attributes:
        name: running (a process has its log open), done (it has a summary), stopped (--resume goes on with it), or
            failed (it does not, or would fail again).
        reason: why it failed, else "".
        step: the last one that is logged, 0 where there is none.
    """

    name: Literal["running", "done", "stopped", "failed"]
    reason: str
    step: int


def is_run(directory: Path) -> bool:
    """Whether a folder is that of a run."""
    settings = (directory / name for name in (CONFIG_FILE, PRETRAINING_FILE))
    return (directory / METRICS_FILE).is_file() and any(path.is_file() for path in settings)


def state_of(directory: Path) -> RunState:
    """The state of the run in a folder; it is not to be asked by the process that runs it (see `outputs.locks.held`).

    OSError where the log cannot be read.
    """
    log = directory / METRICS_FILE
    last = last_entries(log)
    steps = [entry for entry in last if entry.get("event") == "step"]
    step = next((entry["step"] for entry in reversed(last) if isinstance(entry.get("step"), int)), 0)
    if held(log):
        return RunState("running", "", step)
    if (directory / SUMMARY_FILE).exists():
        try:
            read_json_object(directory / SUMMARY_FILE, "the summary of a run")
        except InputError as error:
            return RunState("failed", str(error), step)
        return RunState("done", "", step)
    reason = _why_not_learned(steps[-1] if steps else {}, last[-1] if last else {}) or _why_lost(directory)
    return RunState("failed" if reason else "stopped", reason, step)


def _why_not_learned(step: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Why a run ended that could not learn, by the entries of its last step and of all; "" where it could."""
    try:
        if step and step["skipped_in_row"][0] >= MOST_SKIPPED and step["loss_scale"] <= 1:
            return f"nothing was learned in the last {step['skipped_in_row'][0]} steps: gradients were not finite"
        if is_void(last.get("dev", {})):
            return "its last evaluation gave scores that are not finite"
    except (KeyError, TypeError, IndexError, AttributeError):
        return "its log is not one of this version"
    return ""


def _why_lost(directory: Path) -> str:
    """Why --resume does not go on with a run that has no summary; "" where it does."""
    if has_state(directory) or not (directory / CONFIG_FILE).is_file():
        return ""
    try:
        if lost_its_states(directory, read_config(directory / CONFIG_FILE).save_every):
            return "its saved states are gone"
    except InputError as error:
        return str(error)
    return ""
