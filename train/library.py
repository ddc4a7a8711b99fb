"""What `concord` offers programs: trained models to ask, and trainings to start, in any thread."""

import argparse
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, did_you_mean, shown
from concord.bert.files import is_file, is_folder
from concord.bert.models import sentence_settings
from concord.kernels.threads import own_choices
from concord.train.data.tasks import select_tasks
from concord.train.flags import config_from, from_anywhere
from concord.train.outputs.folders import check_single
from concord.train.outputs.names import BEST, CONFIG_FILE, TASKS_FILE
from concord.train.outputs.saved_run import load_encoder, load_run
from concord.train.reporter import SILENT, Reporter
from concord.train.run_folder import new_folder
from concord.train.runs.begin import begin_fine_tuning
from concord.train.runs.loaded import LoadedRun
from concord.train.settings.config import RunConfig
from concord.train.settings.typed import fine_tuning_config

_LONG = 2000  # texts, of which a bar is shown
_TRAINING = threading.RLock()  # held by the training that runs, whose reporter may begin another one
_STANDS_IN = "sst"  # a task that a pretrained model is built with, since its settings name one at least


def load(name: str | Path, *, device: str = "auto", amp: str = "", pooling: str = "", max_length: int = 0) -> LoadedRun:
    """A trained model, to predict with and to encode texts.

    name: the folder of a run, or its `best`; or a pretrained model, which can only encode: a directory, owner/name on
    the Hugging Face hub, minilm or tiny. device: auto, cpu or cuda. amp: the number format, off (fp32), bf16, fp16 or
    auto; "" for the run's own, and for fp32 of a pretrained model. pooling, max_length: of a pretrained model alone,
    what stands for a sequence (cls or mean), and the wordpieces at which texts are cut; by default what its directory
    says, or else the mean and 512.

    The kernels are checked on the device where they have not been yet, and chosen for this model alone: any thread may
    load models, and ask them, while others do so or train. Raises InputError where there is nothing of the name, it is
    damaged, or it names code of somebody's own that is not trusted: the environment variable CONCORD_OWN names what is.
    """
    with own_choices():
        return _load(name, device, amp, pooling, max_length)


def _load(name: str | Path, device: str, amp: str, pooling: str, max_length: int) -> LoadedRun:
    """`load`, with the choices of the thread that calls it."""
    path, reporter = Path(name), _LibraryReporter()
    check_single(path)
    if path.name == BEST and is_file(path.parent / TASKS_FILE):
        path = path.parent
    if is_file(path / TASKS_FILE):
        if pooling or max_length:
            raise InputError(f"{path}: pooling and max_length are a run's own, expected none")
        saved = load_run(path, device, reporter, amp)
        return LoadedRun(saved, tuple(saved.tasks), reporter)
    if is_folder(path) and not is_file(path / CONFIG_FILE):
        raise InputError(f"{path}: neither a run nor a model, expected {TASKS_FILE} or {CONFIG_FILE} in it")
    said = sentence_settings(str(name))
    if not (pooling or said.pooling):
        raise InputError(f"{name}: its modules.json pools as Concord does not, expected pooling= cls or mean")
    flat = RunConfig(
        tasks=(_STANDS_IN,),
        model=from_anywhere("model", str(name)),
        pooling=pooling or said.pooling,
        max_length=max_length or said.max_length or RunConfig.max_length,
    )
    tasks = select_tasks([_STANDS_IN], None)
    return LoadedRun(load_encoder(fine_tuning_config(flat), tasks, device, reporter, amp or "off"), (), reporter)


@dataclass(frozen=True)
class FineTuned:
    """What a training leaves.

    Attributes:
        directory: of the run.
        summary: what its summary.json tells: dev scores, steps, seconds, versions and more.
    """

    directory: Path
    summary: dict[str, Any]

    def load(self, **settings: Any) -> LoadedRun:
        """The best model, as `load` gives it; settings: of `load`."""
        return load(self.directory, **settings)


def fine_tune(
    settings: RunConfig | Mapping[str, Any], out: str | Path = "", *, reporter: Reporter = SILENT
) -> FineTuned:
    """Train as `python -m train.run` does with these settings, in any thread, and return what it leaves.

    settings: those of `RunConfig` by name, all of which count as given, as flags would; or a RunConfig, whose fields
    count as given where they are not the defaults, and agree by themselves: it names the tasks of the data. A recipe's
    settings, and what follows from the data, stand for the others. out: the folder of the run, which has to be new or
    empty; "" for one below runs/. reporter: is told what happens; by default nobody is. What computes is chosen for the
    process, so that one training runs at a time: a second one waits until the first has ended.

    Raises InputError for whatever is wrong with the settings or the data, and KeyboardInterrupt where, in the main
    thread, a signal stops the run, whose folder --resume then takes.
    """
    given = _given(settings)
    named = argparse.Namespace(out=str(out), **given)
    settled = config_from(named)
    with _TRAINING:
        folder = new_folder(named, f"{'-'.join(settled.tasks)}-{settled.surgery.replace(':', '.')}")
        run = begin_fine_tuning(folder, settled, reporter)
        summary = run.train()
    return FineTuned(run.session.directory, summary)


def _given(settings: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The settings that count as given."""
    defaults = {option.name: option.default for option in fields(RunConfig)}
    if isinstance(settings, RunConfig):
        return {name: value for name, value in vars(settings).items() if value != defaults[name]}
    for name in settings:
        if name not in defaults:
            raise InputError(f"setting {shown(name)}: {did_you_mean(str(name), defaults)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


class _LibraryReporter(Reporter):
    """Warns as Python's programs do, says nothing else, and shows a bar on a terminal while much is read."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def warn(self, text: str) -> None:
        """Raise a UserWarning."""
        warnings.warn(text, stacklevel=4)

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """Show a bar on the standard error output, where that is a terminal."""
        if total < _LONG or sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        from concord.train.outputs.progress import ConsoleReporter, OutputConsole

        bar = ConsoleReporter(OutputConsole(stderr=True))
        self._of_thread.bar = bar
        try:
            with bar.reading(what, total):
                yield
        finally:
            del self._of_thread.bar

    def read(self, examples: int) -> None:
        """Move the bar of this thread's reading on."""
        getattr(self._of_thread, "bar", SILENT).read(examples)
