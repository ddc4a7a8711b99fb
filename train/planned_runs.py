"""Runs that a reproduction plans: each in a folder of its own, where some of it may be done already."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from concord.bert.errors import InputError
from concord.bert.files import read_json_object
from concord.train import pretrain, run
from concord.train.flags import config_from, contradiction
from concord.train.outputs import names
from concord.train.outputs.folders import clear_folder, has_state
from concord.train.papers.results import comparable, result_of
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config

PRETRAINED = "pretrained"
# The settings on which the results of a finished run do not depend.
_WITHOUT_EFFECT = {
    *("device", "kernels", "products", "self_check", "cuda_graphs"),
    *("log_every", "save_every", "mistakes", "skip_test", "skip_bad_rows"),
}


@dataclass(frozen=True)
class PlannedRun:
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

    def result(self) -> dict[str, Any]:
        """What is kept of a finished run; InputError where its summary is damaged."""
        path = self.directory / names.SUMMARY_FILE
        try:
            return result_of(read_json_object(path, "the summary of a run"))
        except KeyError as error:
            raise InputError(f"{path}: without {error}, expected the summary of a run") from None

    def settings(self) -> dict[str, Any]:
        """The settings on which results depend, as they are kept."""
        config = self._wanted()
        files = _data_files(config) if Path(config.data).exists() else []
        return comparable(config, files, _WITHOUT_EFFECT | {"recipe"})

    def _wanted(self) -> RunConfig:
        return config_from(run.build_parser().parse(self.arguments))

    def _kept(self) -> RunConfig:
        return read_config(self.directory / names.CONFIG_FILE)

    def _files(self) -> Iterable[str]:
        return names.files_before_state(self._wanted().tasks)


class PlannedPretraining(PlannedRun):
    """A run of train.pretrain."""

    module = pretrain

    def _wanted(self) -> RunConfig:
        return pretrain.config_from(pretrain.build_parser().parse(self.arguments))

    def _kept(self) -> RunConfig:
        return pretrain.read_settings(self.directory / names.PRETRAINING_FILE)

    def _files(self) -> Iterable[str]:
        return names.pretraining_files_before_state()


def settings_of(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """A system's settings, with those of its pre-training, whose model goes by what made it and not by its place."""
    *before, last = runs
    found = last.settings()
    for each in before:
        found |= {"model": PRETRAINED, PRETRAINED: each.settings()}
    return found


def _data_files(config: RunConfig) -> list[Path]:
    """What a run reads of data on a disk: its file, or its tasks' files in a folder."""
    from concord.train.data.tasks import select_tasks  # torch comes with it

    data = Path(config.data)
    if data.is_file():
        return [data]
    stems = [task.stem for task in select_tasks(config.tasks, data)]
    return [path for stem in stems for path in sorted(data.glob(f"{stem}-*.csv")) if "test" not in path.name]


def _same(name: str, value: Any, other: Any) -> bool:
    """Whether two values of the setting `name` are equal, or name the same file or folder."""
    if name in ("data", "model") and Path(value).exists() and Path(other).exists():
        return Path(value).samefile(other)
    return value == other
