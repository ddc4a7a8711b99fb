"""A reporter that tells other tools, too, of what it passes on; one of them that fails costs a warning, not the run."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from concord.bert.errors import InputError, one_line
from concord.bert.files import replacing
from concord.train.outputs.adapters.series import score_series, step_series
from concord.train.outputs.names import ADAPTERS_FILE, SEEDS_FILE
from concord.train.reporter import ForwardingReporter, Reporter
from concord.train.settings.adapters import ADAPTERS, check_installed

PROJECT = "concord"


class Adapter(Protocol):
    """Tells a tool of one run.

    Args:
        directory: of the run.
        settings: of the run, by the names of config.json.
        step: that the run has behind it; what was told of later ones will be told anew.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int) -> None: ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by their flat names, after a step."""

    def close(self, *, done: bool) -> None:
        """The run ends; done: whether it has come to its end."""


def with_adapters(reporter: Reporter, names: Sequence[str]) -> Reporter:
    """The reporter, which also tells the tools called `names`; InputError where the package of one is missing."""
    check_installed(tuple(names))
    return ToldReporter(reporter, names) if names else reporter


def run_name(directory: Path) -> str:
    """What a tool calls a run: its folder, below that of several seeds."""
    directory = directory.resolve()
    of_seeds = (directory.parent / SEEDS_FILE).is_file()
    return f"{directory.parent.name}/{directory.name}" if of_seeds else directory.name


def kept_id(directory: Path, tool: str) -> str | None:
    """By which name a tool knows the run in a folder, None where it does not yet."""
    path = directory / ADAPTERS_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content.get(tool)


def keep_id(directory: Path, tool: str, name: str) -> None:
    """Keep it for when the run goes on."""
    path = directory / ADAPTERS_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with replacing(path) as beside:
        beside.write_text(json.dumps({**content, tool: name}, indent=1) + "\n", encoding="utf-8")


class ToldReporter(ForwardingReporter):
    """Passes on what it is told, and tells adapters of a run's numbers.

    Args:
        reporter: that it passes on to.
        names: of the adapters.
    """

    def __init__(self, reporter: Reporter, names: Sequence[str]) -> None:
        super().__init__(reporter)
        self._names = tuple(dict.fromkeys(names))
        self._adapters: dict[str, Adapter] = {}
        self._done = False

    def open_run(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        """Pass it on, and open the adapters."""
        super().open_run(directory, settings, step)
        for name in self._names:
            self._guard(name, lambda name=name: self._open(name, directory, settings, step))

    def _open(self, name: str, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        if (directory / name).is_symlink():  # where tools write that leave files in the run's folder
            raise InputError(f"{directory / name}: a link, which is not written through")
        self._adapters[name] = ADAPTERS.resolve(name)(directory, settings, step)

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """Pass on a logged step, and tell the adapters."""
        super().show_step(entry, speed)
        self._log(step_series(entry, speed), entry["step"])

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]], step: int) -> None:
        """Pass on an evaluation, and tell the adapters."""
        super().show_scores(dev, step)
        self._log(score_series(dev), step)

    def finish(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """Pass on the end of a run that is done."""
        self._done = True
        super().finish(directory, summary)

    def close(self) -> None:
        """Close the adapters, and pass it on."""
        for name, adapter in list(self._adapters.items()):
            self._guard(name, lambda adapter=adapter: adapter.close(done=self._done))
        self._adapters.clear()
        super().close()

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for name, adapter in list(self._adapters.items()):
            self._guard(name, lambda adapter=adapter: adapter.log(values, step))

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        """Act; where that fails, whatever the reason, go on without the adapter."""
        try:
            act()
        except Exception as error:
            self._adapters.pop(name, None)
            self.warn(
                f"--report-to {name}: {one_line(f'{type(error).__name__}: {error}', 300)}; the run goes on without it"
            )
