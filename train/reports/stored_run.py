"""A fine-tuning run read from its folder by checked readers, for whoever tells of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import read_json_object
from concord.train.data.tasks import Task, read_tasks
from concord.train.objectives.metrics import main_metric, overall
from concord.train.outputs.dev_answers import DevAnswers, read_answers
from concord.train.outputs.folders import check_single
from concord.train.outputs.log import WHOLE_MODEL
from concord.train.outputs.names import (
    CONFIG_FILE,
    METRICS_FILE,
    PRETRAINING_FILE,
    SUMMARY_FILE,
    TASKS_FILE,
    answers_file,
)
from concord.train.outputs.summary import is_void, score_of
from concord.train.reports.state import RunState, state_of
from concord.train.reports.stored_log import StoredLog, read_log
from concord.train.settings.files import read_config
from concord.train.settings.options import flag_of, setting_text
from concord.train.settings.values import parse_best_metric

_TEXTS = ("device", "precision", "kernels", "products")
_NUMBERS = ("steps", "seconds", "training_seconds", "examples_per_second", "tokens_per_second", "mean")


@dataclass(frozen=True)
class StoredRun:
    """What a run has left so far.

    Attributes:
        directory: its folder.
        state: how it stands.
        settings: flag -> its value, as the command line takes it.
        defaults: flag -> the default.
        tasks: in the order of the run.
        summary: of a run that is done, of the form that `_check_summary` says; empty before.
        log: its steps and evaluations.
        answers: task -> the best model's answers to its dev set; a task is missing where there are none yet, or the run
            is one of before they were kept.
    """

    directory: Path
    state: RunState
    settings: Mapping[str, str]
    defaults: Mapping[str, str]
    tasks: list[Task]
    summary: dict[str, Any]
    log: StoredLog
    answers: dict[str, DevAnswers]

    @property
    def best(self) -> tuple[int, dict[str, dict[str, float | None]]]:
        """The step of the best evaluation so far, and task -> metric -> its value, None where that is undefined;
        (0, {}) where there is none yet."""
        if self.summary:
            return self.summary["best_step"], self.summary["dev"]
        evaluations = [(step, dev) for step, dev in self.log.evaluations if step and not is_void(dev)]
        chosen_by = parse_best_metric(self.settings["--best-metric"], [task.name for task in self.tasks])
        rated = [(score_of(dev, self.tasks, chosen_by), step, dev) for step, dev in evaluations]
        return max(rated, key=lambda row: (row[0], -row[1]))[1:] if rated else (0, {})

    @property
    def scores(self) -> dict[str, float | None]:
        """The mean of the main metrics, and the course's score where the run has its tasks; empty before the first
        evaluation."""
        dev = self.best[1]
        score, mean = overall(dev, self.tasks) if dev else (None, None)
        return {} if not dev else {"mean": mean, "overall": score}

    @property
    def changed(self) -> dict[str, str]:
        """Flag -> value, of the settings that differ from the defaults."""
        return {flag: value for flag, value in self.settings.items() if value != self.defaults[flag]}

    @property
    def conflicts(self) -> dict[str, float | None]:
        """Pair of tasks -> the share of the steps in which both had a gradient, in which these conflicted."""
        if WHOLE_MODEL not in self.log.blocks:
            return {}
        sums = self.log.sums[1][-1, self.log.blocks.index(WHOLE_MODEL)].tolist()
        return {pair: count / met if met else None for pair, (count, _, met) in zip(self.log.pairs, sums, strict=True)}


def read_run(directory: Path, *, log: StoredLog | None = None, state: RunState | None = None) -> StoredRun:
    """The run in a folder; InputError where it is none, or a file of it is damaged or of another version.

    log, state: what the process that runs it knows already, and must not read, since it has the log locked.
    """
    if (directory / PRETRAINING_FILE).is_file():
        raise InputError(f"{directory}: a pre-training, expected a fine-tuning run")
    check_single(directory)
    config = read_config(directory / CONFIG_FILE)
    default = {option.name: option.default for option in fields(config)}
    tasks = read_tasks(directory / TASKS_FILE)
    state = state or state_of(directory)
    summary: dict[str, Any] = {}
    if state.name == "done":
        summary = read_json_object(directory / SUMMARY_FILE, "the summary of a run")
        _check_summary(summary, tasks, directory / SUMMARY_FILE)
    log = log or read_log(directory / METRICS_FILE)
    for dev in [*(dev for _, dev in log.evaluations), *([summary["dev"]] if summary else [])]:
        for task in tasks:
            if main_metric(task) not in dev.get(task.name, {}):
                raise InputError(f"{directory}: an evaluation without {task.name}'s {main_metric(task)}")
    paths = {task.name: directory / answers_file(task.name) for task in tasks}
    return StoredRun(
        directory,
        state,
        {flag_of(name): setting_text(value) for name, value in asdict(config).items()},
        {flag_of(name): setting_text(value) for name, value in default.items()},
        tasks,
        summary,
        log,
        {task.name: read_answers(paths[task.name], task) for task in tasks if paths[task.name].is_file()},
    )


def _check_summary(summary: Mapping[str, Any], tasks: list[Task], path: Path) -> None:
    """InputError where a summary lacks what is told of it, or has something else in its place."""
    number, share = (int, float), (int, float, type(None))
    texts = {"commit": (str, type(None)), "finished": str, **dict.fromkeys(_TEXTS, str)}
    pair = {"meeting_steps": int, "conflicting_steps": int, "share": share, "mean_cosine": share}
    forms: dict[str, Any] = {
        **texts,
        **dict.fromkeys(_NUMBERS, number),
        "best_step": int,
        "skipped_steps": int,
        "damaged_log_lines": int,
        "dev": {task.name: [share] for task in tasks},
        "versions": [str],
        "surgery": [{"pairs": [pair], "gradient_norms": [share], "change": number}],
    }
    # Runs of before do not tell these.
    forms |= {name: form for name, form in (("advice", str), ("turns", [share])) if name in summary}
    if "examples" in summary:
        forms["examples"] = {task.name: {"train": int, "dev": int} for task in tasks}
    if problem := _unlike(summary, forms):
        raise InputError(f"{path}: not the summary of a run of this version ({problem})")
    epoch = {"epoch": int, "steps": int, "seconds": number, "conflicts": [int]}
    epochs = summary.get("epochs")
    if not isinstance(epochs, list) or any(_unlike(row, epoch) for row in epochs):
        raise InputError(f"{path}: not the summary of a run of this version (epochs)")


def _unlike(value: Any, form: Any) -> str:
    """The name of the first part of a value that is not as its form says, "" where all are.

    form: types; of an object its keys and their forms; or a list of one form, that of every value of an object.
    """
    if not isinstance(form, dict | list):
        return "" if isinstance(value, form) else "a value"
    if not isinstance(value, dict):
        return "an object"
    forms = form if isinstance(form, dict) else dict.fromkeys(value, form[0])
    for name, own in forms.items():
        if name not in value or _unlike(value[name], own):
            return str(name)
    return ""
