"""Reproduce a paper's tables: python -m train.reproduce PAPER [--table N] [--budget smoke|...|full] [--data DIR] ...

Runs the systems of the tables one after the other, each in a folder of its own, and leaves those alone that are
finished: stopped or killed at any time, the same command goes on. After each system the tables are written anew. With
--results a finished system leaves a small JSON file, which stands for its run on any machine. A folder whose runs, or
results, had other settings is refused.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, did_you_mean
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.papers.budgets import BUDGETS, budgeted, flags_of
from concord.train.papers.results import ResultFiles, Results, checkout_results
from concord.train.planned_runs import PRETRAINED, PlannedPretraining, PlannedRun, settings_of
from concord.train.settings.options import flag_of
from concord.train.settings.recipes import Paper, Recipe, Table, papers, read_paper, read_recipe

_FOR_PRETRAINING = ("model", "tasks", "data", "skip_bad_rows", "amp", "device", "seed")


class Reproduction:
    """The runs of a paper's tables in one folder.

    Args:
        paper: whose tables.
        tables: their numbers, from 1.
        budget: of each run.
        out: folder of the runs, and of the tables where no results are kept.
        more: flags for every run, such as the data.
    """

    def __init__(self, paper: Paper, tables: Sequence[int], budget: str, out: Path, more: dict[str, Any]) -> None:
        self.paper, self.out, self.more = paper, out, more
        self.tables = [paper.tables[number - 1] for number in tables]
        self.systems = _systems(self.tables)
        self.budget_name, self.budget = budget, BUDGETS[budget]
        self.results: ResultFiles | None = None
        self.anew: list[str] = []

    def choose(self, systems: Sequence[str]) -> None:
        """Run these systems alone; InputError where the tables have none of such a name."""
        self.systems = [self._known("--systems", system) for system in systems]

    def keep(self, results: Path, anew: Sequence[str]) -> None:
        """Keep results in files, from which the tables are written, and take for done what has one.

        results: folder of all papers' results; anew: systems whose files do not count, but are replaced. InputError
        where there is none of such a name.
        """
        self.results = ResultFiles(results / self.paper.name)
        self.anew = [self._known("--anew", system) for system in anew]

    def _known(self, flag: str, system: str) -> str:
        if system not in self.systems:
            raise InputError(f"{flag} {system}: {did_you_mean(system, self.systems)}")
        return system

    def run(self) -> None:
        """Run what is not finished yet; InputError where a run fails for bad input.

        InputError before anything is run where a run in the folder, finished or not, or a result had other settings, or
        the summary of a finished one is damaged.
        """
        planned = {system: self._runs_of(read_recipe(f"{self.paper.name}/{system}")) for system in self.systems}
        planned = {system: runs for system, runs in planned.items() if not self._has_result(system, runs)}
        for each in (each for runs in planned.values() for each in runs):
            each.check()
        self._found()
        for system, runs in planned.items():
            for each in runs if not runs[-1].finished else ():
                each.go_on()
            self._keep_result(system, runs)
            self._write(pictures=False)
        for path in self._write(pictures=True):
            print(f"written    {path}")

    def _runs_of(self, recipe: Recipe) -> list[PlannedRun]:
        """A system's run, and before it that which pre-trains its model, once for all systems, on the tasks' texts."""
        runs: list[PlannedRun] = []
        settings = budgeted(recipe.settings, self.budget) | self.more
        if recipe.pretrain:
            own = {name: settings[name] for name in _FOR_PRETRAINING if name in settings} | self.paper.pretraining
            if self.budget.pretraining_steps:
                own["max_steps"] = self.budget.pretraining_steps
            runs.append(PlannedPretraining(self.out / PRETRAINED, flags_of(own), "further pre-training"))
            settings["model"] = str((self.out / PRETRAINED).absolute())
        arguments = ["--recipe", recipe.name, *flags_of(settings)]
        directory = self.out / recipe.name.rpartition("/")[2]
        return [*runs, PlannedRun(directory, arguments, f"{recipe.name}: {recipe.description}")]

    def _has_result(self, system: str, runs: list[PlannedRun]) -> bool:
        if self.results is None or system in self.anew:
            return False
        return self.results.has(self.budget_name, system, settings_of(runs))

    def _keep_result(self, system: str, runs: list[PlannedRun]) -> None:
        if self.results is not None:
            result = runs[-1].result()
            path = self.results.write(self.budget_name, system, self._command(), settings_of(runs), result)
            print(f"kept       {path}")

    def _write(self, *, pictures: bool) -> list[Path]:
        """The tables as far as they go; where results are kept, all of the paper's, since tables share systems."""
        from concord.train.papers.tables import write_tables  # torch comes with it

        tables, out = (self.tables, self.out) if self.results is None else (self.paper.tables, self.results.folder)
        return write_tables(self.paper, tables, self._found(), out, pictures=pictures)

    def _found(self) -> Results:
        """The results, as far as they go."""
        if self.results is not None:
            return self.results.read(_systems(self.paper.tables))
        runs = {system: PlannedRun(self.out / system, [], system) for system in _systems(self.tables)}
        found = {system: run.result() | {"command": self._command()} for system, run in runs.items() if run.finished}
        return {self.budget_name: {0: found}}  # of one seed, whichever it is

    def _command(self) -> str:
        """The command line that makes the tables, wherever the data lie."""
        more = self.more | ({"data": "DIR"} if "data" in self.more else {})
        return shlex.join(
            ["python", "-m", "train.reproduce", self.paper.name, "--budget", self.budget_name, *flags_of(more)]
        )


def _systems(tables: Iterable[Table]) -> list[str]:
    """The systems of tables, each once."""
    return list(dict.fromkeys(system for table in tables for row in table.rows for system in row.systems))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    parser = OneLineParser(
        prog="python -m train.reproduce", description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS
    )
    parser.add_argument("paper", help=", ".join(papers()))
    parser.add_argument("--table", type=int, help="the number of one table (default all)")
    parser.add_argument("--systems", type=_names, metavar="a,b,...", help="these systems of the tables alone")
    parser.add_argument(
        "--budget",
        default="smoke",
        help="smoke (minutes on a CPU), short, standard (1500 steps), or full (the paper's own; default smoke)",
    )
    parser.add_argument("--out", help="folder of the runs (default runs/reproduce/PAPER-BUDGET, and -seed-N)")
    parser.add_argument(
        "--results",
        help="folder of results that outlive their runs, a JSON file a system, and of the tables made from them (with "
        "--budget standard and full by default a checkout's docs/papers; else none, and the tables are in --out)",
    )
    parser.add_argument("--anew", type=_names, metavar="a,b,...", help="systems to run though --results has them")
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
    seed = f"-seed-{given['seed']}" if "seed" in given else ""
    out = Path(given.pop("out", f"runs/reproduce/{paper.name}-{budget}{seed}"))
    systems, anew = given.pop("systems", None), given.pop("anew", [])
    results = Path(given.pop("results")) if "results" in given else checkout_results() if BUDGETS[budget].kept else None
    if anew and results is None:
        raise InputError(f"--anew {','.join(anew)}: no results are kept with --budget {budget}; give --results")
    reproduction = Reproduction(paper, list(numbers) if chosen is None else [chosen], budget, out, given)
    if systems is not None:
        reproduction.choose(systems)
    if results is not None:
        reproduction.keep(results, anew)
    reproduction.run()


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(run_command(main))
