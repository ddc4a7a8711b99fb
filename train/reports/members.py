"""What is compared: a run, or the runs of several seeds in one folder, read from their folders by checked readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import read_json_object
from concord.train.outputs.names import METRICS_FILE, SEEDS_FILE, seed_folder
from concord.train.reports.spread import Spread, spread_of
from concord.train.reports.stored_run import StoredRun, read_run

_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Member:
    """One side of a comparison.

    Attributes:
        directory: of the run, or of the seeds.
        runs: the one run, or a run a seed; those of seeds that have begun.
        seeds: of which there are to be runs; () for a single run.
    """

    directory: Path
    runs: Sequence[StoredRun]
    seeds: tuple[int, ...] = ()

    @property
    def scores(self) -> dict[tuple[str, str], Spread]:
        """Task and metric -> its values on the dev sets at each run's best step; and ("", "mean") and ("",
        "overall")."""
        best = [run.best[1] for run in self.runs]
        names = dict.fromkeys((task, metric) for dev in best for task, row in dev.items() for metric in row)
        found = {(task, metric): spread_of(dev.get(task, {}).get(metric) for dev in best) for task, metric in names}
        found |= {("", name): spread_of(run.scores.get(name) for run in self.runs) for name in ("mean", "overall")}
        return {name: spread for name, spread in found.items() if spread}

    @property
    def conflicts(self) -> dict[str, Spread]:
        """Pair of tasks -> the share of the steps in which they conflicted."""
        pairs = dict.fromkeys(pair for run in self.runs for pair in run.conflicts)
        found = {pair: spread_of(run.conflicts.get(pair) for run in self.runs) for pair in pairs}
        return {pair: spread for pair, spread in found.items() if spread}

    def of_summary(self, name: str) -> Spread | None:
        """A number of the runs' summaries; None where no run is done."""
        return spread_of(run.summary.get(name) for run in self.runs)

    @property
    def states(self) -> str:
        """How the runs stand, with how many of several."""
        names = [run.state.name for run in self.runs]
        names += ["not begun"] * (len(self.seeds) - len(names))
        if not self.seeds:
            return names[0]
        return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def is_seeds(directory: Path) -> bool:
    """Whether a folder is that of several seeds."""
    return (directory / SEEDS_FILE).is_file()


def read_seed_numbers(directory: Path) -> tuple[int, ...]:
    """The seeds of which a folder has, or is to have, the runs; InputError where its file is damaged."""
    path = directory / SEEDS_FILE
    seeds = read_json_object(path, "the seeds of several runs").get("seeds")
    plain = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 1 << 64 for seed in seeds)
    if not plain or not 0 < len(seeds) <= _MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: expected its seeds as different whole numbers")
    return tuple(seeds)


def read_member(directory: Path) -> Member:
    """The run, or the runs of several seeds, in a folder; InputError where it is neither, or a file is damaged."""
    if not is_seeds(directory):
        return Member(directory, [read_run(directory)])
    seeds = read_seed_numbers(directory)
    begun = [
        folder for folder in (directory / seed_folder(seed) for seed in seeds) if (folder / METRICS_FILE).is_file()
    ]
    if not begun:
        raise InputError(f"{directory}: none of its seeds has begun, expected one run at least")
    return Member(directory, [read_run(folder) for folder in begun], seeds)
