"""Search settings: python -m train.sweep FILE.toml [--jobs N] [--out DIR] [--resume DIR] tries them, keeps the best."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import read_data, replacing
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.outputs.names import CONFIG_FILE
from concord.train.run import reporter_of
from concord.train.run_folder import new_folder
from concord.train.settings.files import read_config
from concord.train.settings.named_data import DATA_SETTINGS
from concord.train.settings.options import flag_words
from concord.train.settings.sweep_file import read_sweep_file

SWEEP_FILE = "sweep.toml"
_MOST_JOBS, _MOST_ROWS = 1024, 20


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run the trials, print the best ones, and return the path of the best one's recipe; raises InputError for bad
    input, and KeyboardInterrupt where it is stopped."""
    given = _parser().parse(arguments)
    if hasattr(given, "file") == hasattr(given, "resume"):
        raise InputError("expected the file of a new sweep, or --resume DIR")
    if not 0 <= getattr(given, "jobs", 0) <= _MOST_JOBS:
        raise InputError(f"--jobs {given.jobs}: expected a number from 0 to {_MOST_JOBS}")
    if find_spec("optuna") is None:
        raise InputError("the package optuna is not installed; pip install optuna, which is the extra sweep")
    file = read_sweep_file(Path(given.resume) / SWEEP_FILE if hasattr(given, "resume") else Path(given.file))
    trials = getattr(given, "trials", None)
    if trials is not None and trials < 1:
        raise InputError(f"--trials {trials}: expected at least 1")
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.side_by_side import SideBySide
    from concord.train.reports.comparing import columns
    from concord.train.sweeping import BEST_FILE, HEADER, Sweep, check_metric, shared_settings

    if hasattr(given, "resume"):
        directory = Path(given.resume)
    else:
        check_metric(file, shared_settings(file)[1])  # judged before anything is made
        directory = _claimed(given, file.path)
    reporter = reporter_of(given)
    sweep = Sweep(directory, file, SideBySide(reporter), getattr(given, "jobs", 0), trials or 0)
    ended = sweep.run()
    for line in columns([HEADER, *sweep.rows()[:_MOST_ROWS]]):
        reporter.say(line)
    if sweep.stop.made and any(one.code != 0 for one in ended):
        reporter.say(f"stopped    go on with: python -m train.sweep --resume {directory}")
        raise KeyboardInterrupt
    path = directory / BEST_FILE
    if not path.exists():
        raise InputError(f"{directory}: no trial has come to its end, so that none is the best")
    reporter.say(f"written    {path}; run it with: {_command(path, sweep.best()[0])}")
    return path


def _command(recipe: Path, best: str) -> str:
    """A command that runs a sweep's recipe on the data of the best trial, which no recipe names; for a shell."""
    config = read_config(recipe.parent / best / CONFIG_FILE)
    named = [option for option in fields(config) if option.name in DATA_SETTINGS]
    found = {option.name: getattr(config, option.name) for option in named}
    data = {option.name: found[option.name] for option in named if found[option.name] != option.default}
    return shlex.join(["python", "-m", "train.run", "--recipe", str(recipe), *flag_words(data)])


def _claimed(given: argparse.Namespace, file: Path) -> Path:
    """The folder of a new sweep, with a copy of its file."""
    directory = new_folder(given, "sweep").claim(SWEEP_FILE)
    with replacing(directory / SWEEP_FILE) as beside:
        beside.write_bytes(read_data(file, "a sweep"))
    return directory


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m train.sweep",
        description="Search settings with Optuna: each trial is a run in a folder of its own, worse ones end early.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("file", nargs="?", metavar="FILE.toml", help="what is searched for (docs/settings.md)")
    parser.add_argument("--out", help="folder of the sweep (default runs/<time>-sweep)")
    parser.add_argument("--resume", help="go on with the sweep in this folder")
    parser.add_argument("--jobs", type=int, help="processes at once (default: as many as there are cores, or GPUs)")
    parser.add_argument("--trials", type=int, help="how many trials in all, in place of what the file says")
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings and errors")
    parser.add_argument("--json", action="store_true", help="print one event a line, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
