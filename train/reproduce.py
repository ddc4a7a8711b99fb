"""Reproduce a paper's tables: python -m train.reproduce PAPER [--table N] [--budget smoke|short|full] [--data DIR] ...

Runs the systems of the tables one after the other, each in a folder of its own, and leaves those alone that are
finished: stopped or killed at any time, the same command goes on. After each system the tables are written anew. A
folder whose runs had other settings is refused.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from concord.bert.errors import InputError
from concord.bert.files import read_json_object
from concord.train import pretrain, run
from concord.train.command import run_command
from concord.train.flags import OneLineParser, config_from, contradiction
from concord.train.outputs import names
from concord.train.outputs.folders import clear_folder, has_state
from concord.train.papers.budgets import BUDGETS, budgeted, flags_of
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config
from concord.train.settings.options import flag_of
from concord.train.settings.recipes import Paper, Recipe, papers, read_paper, read_recipe

PRETRAINED = "pretrained"
_FOR_PRETRAINING = ("model", "tasks", "data", "skip_bad_rows", "amp", "device", "seed")
# The settings on which the results of a finished run do not depend.
_WITHOUT_EFFECT = {
    *("device", "kernels", "products", "self_check", "cuda_graphs"),
    *("log_every", "save_every", "mistakes", "skip_test", "skip_bad_rows"),
}


class Reproduction:
    """The runs of a paper's tables in one folder.

    Args:
        paper: whose tables.
        tables: their numbers, from 1.
        budget: of each run.
        out: folder of the runs and the tables.
        more: flags for every run, such as the data.
    """

    def __init__(self, paper: Paper, tables: Sequence[int], budget: str, out: Path, more: dict[str, Any]) -> None:
        self.paper, self.out, self.more = paper, out, more
        self.tables = [paper.tables[number - 1] for number in tables]
        self.systems = dict.fromkeys(system for table in self.tables for row in table.rows for system in row.systems)
        self.budget_name, self.budget = budget, BUDGETS[budget]

    def run(self) -> None:
        """Run what is not finished yet; InputError where a run fails for bad input.

        InputError before anything is run where a run in the folder, finished or not, had other settings, or the
        summary of a finished one is damaged.
        """
        planned = [self._runs_of(read_recipe(f"{self.paper.name}/{system}")) for system in self.systems]
        for each in (each for runs in planned for each in runs):
            each.check()
        self._summaries()
        for runs in planned:
            if not runs[-1].finished:
                for each in runs:
                    each.go_on()
                self._write(pictures=False)
        for path in self._write(pictures=True):
            print(f"written    {path}")

    def _runs_of(self, recipe: Recipe) -> list["_PlannedRun"]:
        """A system's run, and before it that which pre-trains its model, once for all systems, on the tasks' texts."""
        runs: list[_PlannedRun] = []
        settings = budgeted(recipe.settings, self.budget) | self.more
        if recipe.pretrain:
            own = {name: settings[name] for name in _FOR_PRETRAINING if name in settings} | self.paper.pretraining
            if self.budget.pretraining_steps:
                own["max_steps"] = self.budget.pretraining_steps
            runs.append(_PlannedPretraining(self.out / PRETRAINED, flags_of(own), "further pre-training"))
            settings["model"] = str((self.out / PRETRAINED).absolute())
        arguments = ["--recipe", recipe.name, *flags_of(settings)]
        directory = self.out / recipe.name.rpartition("/")[2]
        return [*runs, _PlannedRun(directory, arguments, f"{recipe.name}: {recipe.description}")]

    def _write(self, *, pictures: bool) -> list[Path]:
        """The tables as far as they go."""
        from concord.train.papers.tables import write_tables  # torch comes with it

        summaries, command = self._summaries(), self._command()
        return write_tables(self.paper, self.tables, summaries, self.out, command=command, pictures=pictures)

    def _summaries(self) -> dict[str, dict[str, Any]]:
        """What the summary of each finished system holds."""
        paths = {system: self.out / system / names.SUMMARY_FILE for system in self.systems}
        return {
            system: read_json_object(path, "the summary of a run") for system, path in paths.items() if path.exists()
        }

    def _command(self) -> str:
        """The command line that makes the tables, wherever the data lie."""
        more = self.more | ({"data": "DIR"} if "data" in self.more else {})
        return shlex.join(
            ["python", "-m", "train.reproduce", self.paper.name, "--budget", self.budget_name, *flags_of(more)]
        )


@dataclass(frozen=True)
class _PlannedRun:
    """A run of train.run in a folder of its own, where some of it may be done already.

    directory: of the run; arguments: of the command line of a new one, but the folder; title: what it is.
    """

    directory: Path
    arguments: list[str]
    title: str

    module: ClassVar[ModuleType] = run

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.directory / names.SUMMARY_FILE).exists()

    @property
    def saved(self) -> bool:
        """Whether there is a state that the run can go on from."""
        return has_state(self.directory)

    def check(self) -> None:
        """Raise InputError where what is done was done with other settings, as far as results depend on them."""
        if not (self.finished or self.saved):
            return
        kept = vars(self._kept())
        for name, value in vars(self._wanted()).items():
            # A run that goes on stays on its device.
            counts = name not in _WITHOUT_EFFECT or (name == "device" and not self.finished)
            if counts and not _same(name, value, kept[name]):
                raise InputError(f"{contradiction(name, value, kept[name], self.directory)}; give another --out")

    def go_on(self) -> None:
        """Run it to its end, from its last state or, where none was saved, from the beginning."""
        if self.finished:
            return
        if self.saved:
            arguments = ["--resume", str(self.directory)]
        else:
            clear_folder(self.directory, self._files())
            arguments = [*self.arguments, "--out", str(self.directory)]
        print(f"\n{self.title}\n  python -m {self.module.__name__} {shlex.join(arguments)}", flush=True)
        self.module.main(arguments)

    def _wanted(self) -> RunConfig:
        return config_from(run.build_parser().parse(self.arguments))

    def _kept(self) -> RunConfig:
        return read_config(self.directory / names.CONFIG_FILE)

    def _files(self) -> Iterable[str]:
        return names.files_before_state(self._wanted().tasks)


class _PlannedPretraining(_PlannedRun):
    """A run of train.pretrain."""

    module = pretrain

    def _wanted(self) -> RunConfig:
        return pretrain.config_from(pretrain.build_parser().parse(self.arguments))

    def _kept(self) -> RunConfig:
        return pretrain.read_settings(self.directory / names.PRETRAINING_FILE)

    def _files(self) -> Iterable[str]:
        return names.pretraining_files_before_state()


def _same(name: str, value: Any, other: Any) -> bool:
    """Whether two values of the setting `name` are equal, or name the same file or folder."""
    if name in ("data", "model") and Path(value).exists() and Path(other).exists():
        return Path(value).samefile(other)
    return value == other


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m train.reproduce", description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS
    )
    parser.add_argument("paper", help=", ".join(papers()))
    parser.add_argument("--table", type=int, help="the number of one table (default all)")
    parser.add_argument(
        "--budget", default="smoke", help="smoke (minutes on a CPU), short, or full (the paper's own; default smoke)"
    )
    parser.add_argument("--out", help="folder of the runs (default runs/reproduce/PAPER-BUDGET)")
    for name in ("data", "model", "amp", "device", "seed"):
        bare = {"nargs": "?", "const": "auto"} if name == "amp" else {}
        parser.add_argument(flag_of(name), help="as for python -m train.run, in every run", **bare)
    parser.add_argument("--skip-bad-rows", action="store_true", help="as for python -m train.run")
    given = vars(parser.parse(arguments))
    paper, budget = read_paper(given.pop("paper")), given.pop("budget")
    if budget not in BUDGETS:
        raise InputError(f"--budget {budget}: expected one of {', '.join(BUDGETS)}")
    numbers = range(1, len(paper.tables) + 1)
    chosen = given.pop("table", None)
    if chosen is not None and chosen not in numbers:
        raise InputError(f"--table {chosen}: {paper.name} has tables 1 to {len(paper.tables)}")
    out = Path(given.pop("out", f"runs/reproduce/{paper.name}-{budget}"))
    Reproduction(paper, list(numbers) if chosen is None else [chosen], budget, out, given).run()


if __name__ == "__main__":
    sys.exit(run_command(main))
