"""A run a seed, side by side where cores or GPUs allow, in one folder: what train.run does with --seeds."""

import argparse
import os
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import read_json_object, replacing
from concord.train.flags import config_from, resumed_config
from concord.train.outputs import names
from concord.train.outputs.folders import clear_folder, has_state
from concord.train.outputs.side_by_side import SideBySide
from concord.train.outputs.stopping import StopRequest
from concord.train.outputs.strict_json import json_text
from concord.train.processes import Ended, Processes, alone, places, wait_until_free
from concord.train.reporter import Reporter
from concord.train.reports.comparing import columns
from concord.train.reports.comparison_page import write_seeds_page
from concord.train.reports.members import Member, read_member, read_seed_numbers
from concord.train.reports.overlaid import course_rows, score_header, score_rows
from concord.train.reports.spread import COVERAGE
from concord.train.run_folder import new_folder
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config, write_config
from concord.train.settings.layers import OF_TABLES
from concord.train.settings.options import flag_words
from concord.train.settings.own import VARIABLE, check_trusted, own_names

_FEWEST = 2


def parse_seeds(text: str, fewest: int = _FEWEST) -> tuple[int, ...]:
    """The seeds that --seeds names; InputError where they are not different whole numbers, `fewest` at least."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    seeds = tuple(int(item) for item in items if item.isdecimal())
    if len(seeds) < max(fewest, len(items)) or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text}: expected different whole numbers, {fewest} at least, such as 1,2,3")
    return seeds


class SeedRuns:
    """Runs of the same settings with several seeds.

    Args:
        directory: of them all, with seeds.json and config.json in it.
        given: the command line; what it gives anew of runs that go on is that of those that have not begun yet, too.

    InputError where the folder is damaged, where a flag contradicts the settings of runs that go on, and where these
    name code that is not trusted, or not to be had.
    """

    def __init__(self, directory: Path, given: argparse.Namespace) -> None:
        self.directory, self._given = directory, given
        content = read_json_object(directory / names.SEEDS_FILE, "the seeds of several runs")
        self.seeds, threads = read_seed_numbers(directory), content.get("threads")
        if type(threads) is not int or threads < 1:
            raise InputError(f"{directory / names.SEEDS_FILE}: expected the threads of each run as a whole number")
        self._threads = threads
        self._kept = self.config = read_config(directory / names.CONFIG_FILE)
        if hasattr(given, "resume"):
            if hasattr(given, "seed"):
                raise InputError(f"--seed {given.seed}: the runs in {directory} go on with their own seeds")
            self.config = resumed_config(self._kept, given, directory)
        self._own = own_names(vars(self.config), OF_TABLES)
        check_trusted(self._own, own_names(vars(given), OF_TABLES), directory)

    @classmethod
    def begun(cls, given: argparse.Namespace) -> "SeedRuns":
        """A folder for new runs, with what they are to be; InputError for whatever is wrong with the settings."""
        seeds = parse_seeds(given.seeds)
        if hasattr(given, "seed"):
            raise InputError(f"--seed {given.seed} and --seeds {given.seeds}: expected one of them")
        for seed in seeds:  # judged before anything is made
            config = config_from(argparse.Namespace(**vars(given), seed=seed))
        folder = new_folder(given, f"{'-'.join(config.tasks)}-{config.surgery.replace(':', '.')}-seeds")
        threads = places(len(seeds), config.device)[0].threads
        directory = folder.claim(names.SEEDS_FILE)
        with replacing(directory / names.CONFIG_FILE) as beside:
            write_config(config_from(given), beside)
        with replacing(directory / names.SEEDS_FILE) as beside:
            beside.write_text(json_text({"seeds": seeds, "threads": threads}, indent=2) + "\n", encoding="utf-8")
        return cls(directory, given)

    def run(self, told: SideBySide, stop: StopRequest) -> list[Ended]:
        """Run what is not done yet, and tell of it; stop: whether the runs are to stop. How each has ended."""
        waiting = {names.seed_folder(seed): seed for seed in self.seeds if not self._done(seed)}
        found = places(max(1, len(waiting)), self.config.device, self._threads)
        done = (
            f"{len(self.seeds) - len(waiting)} of {len(self.seeds)} are done; "
            if len(waiting) < len(self.seeds)
            else ""
        )
        told.reporter.say(f"seeds      {done}{len(found)} at a time, {self._threads} threads each, in {self.directory}")
        modules = [name.partition(":")[0] for name in self._own]
        trusted = {VARIABLE: ",".join([*filter(None, [os.environ.get(VARIABLE)]), *modules])} if modules else {}
        with alone(self.directory), told:
            jobs = {name: partial(self._arguments, seed, told.reporter) for name, seed in waiting.items()}
            return Processes(found, told.tell, stop, trusted).run(jobs)

    def _folder(self, seed: int) -> Path:
        return self.directory / names.seed_folder(seed)

    def _done(self, seed: int) -> bool:
        return (self._folder(seed) / names.SUMMARY_FILE).exists()

    def _arguments(self, seed: int, reporter: Reporter) -> list[str]:
        """What train.run is given for a seed: to go on with its run, or to begin it."""
        folder = self._folder(seed)
        wait_until_free(folder, reporter)
        if has_state(folder) or (folder / names.CONFIG_FILE).is_file():
            return ["--resume", str(folder), *(_flags(self._given) if hasattr(self._given, "resume") else [])]
        if folder.is_dir():
            clear_folder(folder, names.files_before_state(self.config.tasks))
        settings = self.directory / names.CONFIG_FILE
        if self.config != self._kept:
            # Not as flags: from the data that flags name follows what wins over the settings of a file.
            settings = self.directory / f"{folder.name}.json"
            with replacing(settings) as beside:
                write_config(self.config, beside)
        return ["--config", str(settings), "--seed", str(seed), "--out", str(folder)]

    def sum_up(self, reporter: Reporter) -> dict[str, Any]:
        """Write summary.json and report.html of runs that are all done, print the table, and return the summary."""
        member = read_member(self.directory)
        summary = summary_of(member)
        with replacing(self.directory / names.SUMMARY_FILE) as beside:
            beside.write_text(json_text(summary, indent=2) + "\n", encoding="utf-8")
        for line in columns([score_header(member), *score_rows(member)]):
            reporter.say(line)
        for line in columns(course_rows(member)):
            reporter.say(line)
        try:
            write_seeds_page(member)
        except Exception as error:  # the runs are done, and the page can be drawn later
            reporter.warn(f"no {names.REPORT_FILE} is written ({type(error).__name__}: {error})")
        reporter.finish(self.directory, summary)
        reporter.say(f"written    {self.directory}")
        return summary


def _flags(given: argparse.Namespace) -> list[str]:
    """The settings that a command line gives, as another takes them."""
    options = {option.name for option in fields(RunConfig)}
    return flag_words({name: value for name, value in vars(given).items() if name in options})


def summary_of(member: Member) -> dict[str, Any]:
    """What the summary.json of several seeds tells: each number as mean, deviation, interval and its values."""
    dev: dict[str, dict[str, Any]] = {}
    for (task, metric), spread in member.scores.items():
        if task:
            dev.setdefault(task, {})[metric] = asdict(spread)
    whole = {metric: asdict(spread) for (task, metric), spread in member.scores.items() if not task}
    speeds = {name: member.of_summary(name) for name in ("seconds", "training_seconds", "examples_per_second")}
    return {
        "seeds": list(member.seeds),
        "runs": [run.directory.name for run in member.runs],
        "dev": dev,
        "mean": whole.get("mean"),
        "overall": whole.get("overall"),
        **{name: asdict(spread) for name, spread in speeds.items() if spread},
        "conflicts": {pair: asdict(spread) for pair, spread in member.conflicts.items()},
        "coverage": COVERAGE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def run_seeds(given: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Begin or go on with the runs that the command line asks for, and return what summary.json tells of them.

    InputError where a run fails, in its words, with the others done or stopped by then; KeyboardInterrupt where a stop
    was asked for, with all states saved.
    """
    if hasattr(given, "resume") and hasattr(given, "seeds"):
        raise InputError(f"--seeds {given.seeds}: the runs in {given.resume} go on with their own seeds")
    runs = SeedRuns(Path(given.resume), given) if hasattr(given, "resume") else SeedRuns.begun(given)
    stop = StopRequest(reporter)
    ended = runs.run(SideBySide(reporter), stop)
    failed = [one for one in ended if one.failed]
    if failed:
        others = f", and {len(failed) - 1} more failed" if len(failed) > 1 else ""
        raise InputError(f"{failed[0].name}: {failed[0].reason}{others} (--resume {runs.directory} goes on)")
    if any(one.code != 0 for one in ended):
        reporter.say(f"stopped    go on with: --resume {runs.directory}")
        raise KeyboardInterrupt
    return runs.sum_up(reporter)
