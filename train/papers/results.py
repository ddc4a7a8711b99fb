"""Results that outlive their runs: a small JSON file a system, PAPER/BUDGET/SYSTEM.json in a folder of results, and
SYSTEM-seed-N.json of every other seed than the default.

A finished run's folder holds models and is not kept for ever; what its summary tells is, with the settings that made
it. A system whose file is there counts as done, as long as its settings are those that are asked for.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import make_folder, read_json_object, replacing
from concord.train.papers.budgets import BUDGETS
from concord.train.settings.config import RunConfig
from concord.train.settings.options import flag_of, setting_text

Result = dict[str, Any]
Results = Mapping[str, Mapping[int, Mapping[str, Result]]]  # budget -> seed -> system -> its result

# What is kept of a run's summary.
_KEPT = ("dev", "best_step", "steps", "examples", "seconds", "training_seconds", "examples_per_second")
_KEPT += ("tokens_per_second", "device", "precision", "kernels", "products", "versions", "commit", "finished")
_WHOLE_MODEL = "model"
_IN_CHECKOUT = Path(__file__).resolve().parents[2] / "docs" / "papers"


def checkout_results() -> Path | None:
    """The folder of the results in a checkout of the project; None where the package is installed without it."""
    return _IN_CHECKOUT if _IN_CHECKOUT.is_dir() else None


def result_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What tables and readers need of a run's summary: of its surgery what it met in the whole model, of its epochs
    their number."""
    found = {name: summary[name] for name in _KEPT}
    return found | {"epochs": len(summary["epochs"]), "surgery": summary["surgery"][_WHOLE_MODEL]}


@dataclass(frozen=True)
class ResultFiles:
    """The results of a paper's systems.

    Attributes:
        folder: of the paper.
    """

    folder: Path

    def path(self, budget: str, system: str, seed: int = RunConfig.seed) -> Path:
        """The file of a system's result."""
        suffix = "" if seed == RunConfig.seed else f"-seed-{seed}"
        return self.folder / budget / f"{system}{suffix}.json"

    def read(self, systems: Iterable[str]) -> Results:
        """Those of the systems that have one; InputError where a file is damaged."""
        systems, found = list(systems), {}
        for budget in BUDGETS:
            names = [path.stem.rpartition("-seed-")[2] for path in (self.folder / budget).glob("*-seed-*.json")]
            seeds = sorted({RunConfig.seed, *(int(name) for name in names if name.isdecimal())})
            found[budget] = {seed: self._of_seed(budget, systems, seed) for seed in seeds}
        return found

    def _of_seed(self, budget: str, systems: Iterable[str], seed: int) -> dict[str, Result]:
        paths = {system: self.path(budget, system, seed) for system in systems}
        what = "the result of a system"
        return {system: read_json_object(path, what) for system, path in paths.items() if path.exists()}

    def has(self, budget: str, system: str, settings: Mapping[str, Any]) -> bool:
        """Whether there is a result of these settings; InputError where there is one of others.

        settings: as `comparable` gives them.
        """
        path = self.path(budget, system, settings["seed"])
        if not path.exists():
            return False
        kept = read_json_object(path, "the result of a system").get("settings")
        way_out = f"give another --results, or --anew {system} to run it anew"
        if not isinstance(kept, dict):
            raise InputError(f"{path}: it does not say with which settings it was made; {way_out}")
        for name, value in settings.items():
            # A setting that there was not then has the value that changes nothing, its default.
            before = kept.get(name, _plain(getattr(RunConfig, name, None)))
            if before != value:
                raise InputError(f"{flag_of(name)} {_text(value)}: {path} has {_text(before)}; {way_out}")
        if gone := kept.keys() - settings.keys():
            raise InputError(f"{path}: it has {flag_of(min(gone))}, which there is no more; {way_out}")
        return True

    def write(
        self, budget: str, system: str, command: str, settings: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Path:
        """Write a system's result, and return its path.

        command: the command line that makes it; settings: as `comparable` gives them; result: as `result_of` gives it.
        """
        path = self.path(budget, system, settings["seed"])
        make_folder(path.parent)
        content = {"system": f"{self.folder.name}/{system}", "budget": budget, "command": command, **result}
        with replacing(path) as beside:
            beside.write_text(json.dumps({**content, "settings": settings}, indent=1) + "\n", encoding="utf-8")
        return path


def comparable(config: RunConfig, files: Iterable[Path], without: Iterable[str]) -> dict[str, Any]:
    """A run's settings as JSON has them, by which results are compared: what lies on a disk by its content.

    files: of the data; without: names of settings on which results do not depend.
    """
    found = {name: _plain(value) for name, value in vars(config).items() if name not in set(without)}
    if Path(config.data).exists():
        found["data"] = digest_of(files)
    model = Path(config.model)
    if model.is_dir():
        found["model"] = digest_of(sorted(model.glob("*.safetensors")))
    return found


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 of files one after the other, each after its name."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode("utf-8"))
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    return setting_text(tuple(value) if isinstance(value, list) else value) or "none"
