"""A sweep under way: Optuna's study in a SQLite file, and a process of train.run for each of its trials."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from concord.bert.errors import InputError, one_line
from concord.bert.files import read_data, read_json_object, replacing
from concord.train.data.datasets import run_tasks
from concord.train.data.tasks import read_tasks
from concord.train.objectives.metrics import main_metric, main_scores, metric_names
from concord.train.outputs import names
from concord.train.outputs.folders import clear_folder, has_state
from concord.train.outputs.log import read_lines
from concord.train.outputs.side_by_side import SideBySide
from concord.train.outputs.stopping import StopRequest
from concord.train.processes import Ended, Processes, alone, places, wait_until_free
from concord.train.reports.comparing import NOTHING
from concord.train.runs.begin import choose_metrics
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config, toml_lines, write_config
from concord.train.settings.layers import OF_TABLES, layered
from concord.train.settings.named_data import DATA_SETTINGS, from_anywhere
from concord.train.settings.options import flag_of
from concord.train.settings.own import check_trusted, own_names
from concord.train.settings.recipes import read_recipe
from concord.train.settings.settings_file import checked_setting
from concord.train.settings.sweep_file import SweepFile
from concord.train.settings.typed import fine_tuning_config
from concord.train.settings.values import MEAN
from concord.train.study import distribution, open_study

BEST_FILE = "best.toml"
HEADER = ["trial", "state", "score", "tried"]
_TRIALS = "trials"  # the attribute of a study with how many there are to be, where that is not what the file says
_FOLDER = "folder"  # the attribute of a trial that names the folder of its run
_State = optuna.trial.TrialState
_STATES = {_State.COMPLETE: "done", _State.PRUNED: "pruned", _State.FAIL: "failed"}
_PLACES = (*DATA_SETTINGS, "model", "recipe")
# What is of a place, or of a single run, and so in no recipe.
_NOT_OF_RECIPES = {*DATA_SETTINGS, "recipe", "seed", "device", "report_to"}


class Sweep:
    """Trials in a folder.

    Args:
        directory: of all of them, with `study.db` in it.
        file: what is searched for.
        told: tells of the runs' events.
        jobs: processes at once; 0 for as many as there are cores or GPUs.
        trials: in all, from now on; 0 for as many as were said last, or else as the file says.
    """

    def __init__(self, directory: Path, file: SweepFile, told: SideBySide, jobs: int = 0, trials: int = 0) -> None:
        self.directory, self._told = directory, told
        self._shared, self._config = shared_settings(file)
        if (directory / names.CONFIG_FILE).is_file():  # whose paths are absolute
            self._config = read_config(directory / names.CONFIG_FILE)
            self._shared |= {name: getattr(self._config, name) for name in _PLACES if name in self._shared}
        else:
            with replacing(directory / names.CONFIG_FILE) as beside:
                write_config(self._config, beside)
        self._study = open_study(directory / names.STUDY_FILE, file)
        if trials:
            self._study.set_user_attr(_TRIALS, trials)
        self.file = replace(file, trials=self._study.user_attrs.get(_TRIALS, file.trials))
        self._space = {name: distribution(own) for name, own in file.space.items()}
        self.stop = StopRequest(told.reporter)
        self._places = places(jobs or self.file.trials, self._config.device, exactly=jobs > 0)
        self._processes = Processes(self._places, self._event, self.stop, on_end=self._end)
        self._trials: dict[str, optuna.Trial] = {}
        self._open: set[str] = set()  # trials that the study has not been told the end of
        self._evaluations: dict[str, int] = {}
        self._pruned: set[str] = set()
        self._began: set[str] = set()
        self._lock, self._bad_input = threading.RLock(), ""

    def trials(self) -> dict[str, optuna.trial.FrozenTrial]:
        """The folder of each run -> its trial, the last one where a run has gone on, since that is a trial anew."""
        with self._lock:
            found = self._study.get_trials(deepcopy=False)
        return {trial.user_attrs[_FOLDER]: trial for trial in found if _FOLDER in trial.user_attrs}

    def run(self) -> list[Ended]:
        """Run what is not done yet; how each run has ended. InputError where one fails before its first step: its input
        is bad, and the others' too."""
        with alone(self.directory):
            return self._run()

    def _run(self) -> list[Ended]:
        self._take_over()
        known = self.trials()
        begun = [folder for folder, trial in known.items() if trial.state == _State.WAITING]
        new = [f"trial-{number}" for number in range(len(known), max(len(known), self.file.trials))]
        self._told.reporter.say(
            f"sweep      {len(known) - len(begun)} of {self.file.trials} trials are done, {len(begun)} go on; "
            f"{len(self._places)} at a time, {self._places[0].threads} threads each, in {self.directory}"
        )
        for _ in begun:  # Optuna gives those first that wait
            self._ask()
        with self._told:
            ended = self._processes.run({name: partial(self._arguments, name) for name in (*begun, *new)})
        if self._bad_input:
            # A setting stays what it is; what else is bad may be put right.
            of_setting = self._bad_input.partition(": ")[2].startswith("--")
            advice = "" if of_setting else f" (--resume {self.directory} goes on)"
            raise InputError(f"{self._bad_input}{advice}")
        return ended

    def _take_over(self) -> None:
        """Have trials wait, to go on in their folders, that were running when an earlier command ended."""
        waiting = {folder for folder, trial in self.trials().items() if trial.state == _State.WAITING}
        for trial in self._study.get_trials(states=(_State.RUNNING,)):
            folder = trial.user_attrs.get(_FOLDER)
            if folder and folder not in waiting:
                self._study.enqueue_trial(trial.params, user_attrs={_FOLDER: folder})
            self._study.tell(trial.number, state=_State.FAIL)

    def _ask(self, folder: str = "") -> None:
        """A trial of the study's; folder: of a new one."""
        with self._lock:
            trial = self._study.ask(self._space)
            if folder:
                trial.set_user_attr(_FOLDER, folder)
            name = trial.user_attrs[_FOLDER]
            self._trials[name] = trial
            self._open.add(name)

    def _arguments(self, name: str) -> list[str] | None:
        """What train.run is given for a trial; None where it is done, or its settings do not go together."""
        folder = self.directory / name
        if name not in self._trials:
            self._ask(name)
        wait_until_free(folder, self._told.reporter)
        if (folder / names.SUMMARY_FILE).exists():  # done, which the study was not told any more
            self._tell_value(name)
            return None
        if has_state(folder) or (folder / names.CONFIG_FILE).is_file():
            return ["--resume", str(folder)]
        if folder.is_dir():
            clear_folder(folder, names.files_before_state(self._config.tasks))
        given = _settings(self._trials[name].params)
        try:
            config = layered(self._shared | given, None)
        except InputError as error:
            self._tell_failure(name, str(error))
            return None
        path = self.directory / f"{name}.json"
        with replacing(path) as beside:
            write_config(config, beside)
        return ["--config", str(path), "--out", str(folder)]

    def _event(self, name: str, event: Mapping[str, Any]) -> None:
        """Tell of an event; an evaluation is reported to the study, which may end the trial."""
        self._told.tell(name, event)
        kind = event.get("event")
        if kind == "plan":
            self._began.add(name)
            for dev in self._evaluations_until(name, event["done"]):
                self._report(name, dev)
        if kind == "evaluation":
            self._report(name, event["dev"])
            with self._lock:
                prunes = self.file.prune and name not in self._pruned and self._trials[name].should_prune()
            if prunes:
                self._pruned.add(name)
                self._processes.end(name)

    def _evaluations_until(self, name: str, step: int) -> list[Mapping[str, Any]]:
        """The dev metrics that a run had at the evaluations up to a step, from which it goes on."""
        if not step:
            return []
        entries = read_lines(read_data(self.directory / name / names.METRICS_FILE, "the log of a run"))[0]
        return [entry["dev"] for entry in entries if entry["event"] == "evaluation" and entry["step"] <= step]

    def _report(self, name: str, dev: Mapping[str, Mapping[str, float | None]]) -> None:
        """Report an evaluation: trials are compared at evaluations of the same number, whatever their steps are."""
        with self._lock:
            number = self._evaluations[name] = self._evaluations.get(name, 0) + 1
            self._trials[name].report(self._score(name, dev), number)

    def _score(self, name: str, dev: Mapping[str, Mapping[str, float | None]]) -> float:
        """What the sweep makes high, of the dev metrics of a run; an undefined metric counts as 0."""
        tasks = read_tasks(self.directory / name / names.TASKS_FILE)
        if self.file.metric == MEAN:
            return sum(main_scores(dev, tasks).values()) / len(tasks)
        task, _, metric = self.file.metric.partition(".")
        metric = metric or main_metric(next(own for own in tasks if own.name == task))
        if metric not in dev[task]:
            raise InputError(f"metric {self.file.metric}: {task} has {', '.join(dev[task])}")
        return dev[task][metric] or 0.0

    def _end(self, ended: Ended) -> None:
        """Tell the study how a trial has ended; one that was stopped, or never begun, goes on later."""
        name = ended.name
        if name not in self._open or ended.code is None:
            return
        if ended.code == 0:
            self._tell_value(name)
        elif ended.failed:
            self._tell_failure(name, ended.reason)
            if name not in self._began and not self._bad_input:
                self._bad_input = f"{name}: {ended.reason}"
                self.stop.make()
        elif name in self._pruned:
            self._tell(name, state=_State.PRUNED)
            self._told.reporter.say(f"{name}  pruned after {self._evaluations[name]} evaluations")

    def _tell(self, name: str, value: float | None = None, state: optuna.trial.TrialState | None = None) -> None:
        with self._lock:
            self._study.tell(self._trials[name], value, state=state)
            self._open.discard(name)

    def _tell_value(self, name: str) -> None:
        summary = read_json_object(self.directory / name / names.SUMMARY_FILE, "the summary of a run")
        self._tell(name, self._score(name, summary["dev"]))
        self._write_best()

    def _tell_failure(self, name: str, reason: str) -> None:
        self._tell(name, state=_State.FAIL)
        self._told.reporter.warn(f"{name}: {one_line(reason)}")

    def rows(self) -> list[list[str]]:
        """The cells of each trial, as `HEADER` names them; the best first, and then those that are not done."""
        found = self.trials().items()
        ordered = sorted(found, key=lambda row: -(row[1].value if row[1].state == _State.COMPLETE else float("-inf")))
        return [
            [
                name,
                _STATES.get(trial.state, "stopped"),
                f"{trial.value:.4f}" if trial.state == _State.COMPLETE else NOTHING,
                "  ".join(f"{flag_of(own)} {_text(value)}" for own, value in trial.params.items()),
            ]
            for name, trial in ordered
        ]

    def best(self) -> tuple[str, optuna.trial.FrozenTrial] | None:
        """The folder of the best trial so far, and the trial; None before the first one is done."""
        done = [(name, trial) for name, trial in self.trials().items() if trial.state == _State.COMPLETE]
        return max(done, key=lambda row: row[1].value) if done else None

    def _write_best(self) -> None:
        """Write the settings of the best trial so far as a recipe: without those of a place or of a single run."""
        name, trial = self.best()
        base = read_recipe(self._shared["recipe"]).settings if self._shared.get("recipe") else {}
        settings = base | self._shared | _settings(trial.params)
        kept = {own: value for own, value in settings.items() if own not in _NOT_OF_RECIPES}
        text = f"the best of {self.file.path.name}, {name}: {self.file.metric} {trial.value:.4f}"
        with replacing(self.directory / BEST_FILE) as beside:
            beside.write_text(toml_lines({"description": text, **kept}), encoding="utf-8")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial tries, as settings."""
    return {name: checked_setting(name, value, name) for name, value in parameters.items()}


def shared_settings(file: SweepFile) -> tuple[dict[str, Any], RunConfig]:
    """The settings that a sweep's file gives for every trial, and all settings that they make; InputError where they
    are not allowed, or the file names code that CONCORD_OWN does not."""
    choices = {name: tuple(map(str, own.choices)) for name, own in file.space.items()}
    named = [name for settings in (file.settings.settings, choices) for name in own_names(settings, OF_TABLES)]
    check_trusted(named, (), file.path)
    settings = {name: from_anywhere(name, value) for name, value in file.settings.settings.items()}
    if "." in file.metric:
        settings.setdefault("best_metric", file.metric)
    try:
        config = layered(settings, None)
        if file.metric != MEAN and file.metric.partition(".")[0] not in config.tasks:
            raise InputError(
                f"metric {file.metric}: expected {MEAN}, a task, or TASK.METRIC, of {', '.join(config.tasks)}"
            )
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from None
    return settings, config


def check_metric(file: SweepFile, config: RunConfig) -> None:
    """InputError where a sweep's TASK.METRIC is none of what its task has, unless trials differ in what that is."""
    task, _, metric = file.metric.partition(".")
    if not metric or file.space.keys() & {*DATA_SETTINGS, "recipe", "tasks", "metric"}:
        return
    typed = fine_tuning_config(config)
    tasks = choose_metrics(run_tasks(typed.data), typed.objectives)
    found = metric_names(next(own for own in tasks if own.name == task))
    if metric not in found:
        raise InputError(f"{file.path}: metric {file.metric}: {task} has {', '.join(found)}")
