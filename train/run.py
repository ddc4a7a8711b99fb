"""Train: python -m train.run --amp --surgery pcgrad [--data DIR] [--tasks sst,paraphrase,sts] [--resume DIR] ...

With no other argument it trains the bundled MiniLM on a data set that the project generates itself, on a CPU or GPU.
On several: torchrun --nproc-per-node N -m train.run ...
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from concord.bert.errors import InputError
from concord.bert.files import exists
from concord.train.command import run_command
from concord.train.flags import build_parser, config_from, import_own_of, resumed_config
from concord.train.outputs.folders import RunFolder, has_state
from concord.train.outputs.names import CONFIG_FILE, SEEDS_FILE, files_before_state
from concord.train.ranks.environment import Launch, launch_of
from concord.train.reporter import SILENT, Reporter
from concord.train.run_folder import folder_to_go_on, new_folder, restarted_folder, resumed_folder
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config, toml_of


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the command line, and return what summary.json tells of the run, or nothing where it only prints; raises
    InputError for bad input. It may be called in any thread, and handles signals in the main one. Of several ranks the
    first alone has a summary."""
    launch = launch_of()
    if launch is not None and launch.size > 1:
        return _main_of_rank(arguments, launch)
    given = build_parser().parse(arguments)
    folder = restarted_folder(given, launch) or resumed_folder(given)
    if getattr(given, "profile", 1) < 1:
        raise InputError(f"--profile {given.profile}: expected a number of steps, at least 1")
    if getattr(given, "print_config", False):
        return _print_config(given, folder)
    if hasattr(given, "seeds") or (folder and (folder.path / SEEDS_FILE).is_file()):
        if hasattr(given, "profile"):
            raise InputError("--profile: it is of one run, not of several seeds")
        from concord.train.seeds import run_seeds  # torch comes with it

        return run_seeds(given, reporter_of(given))
    folder, config = _begun_or_gone_on(given, folder)
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.runs.begin import begin_fine_tuning

    reporter = reporter_of(given)
    if hasattr(given, "profile"):
        from concord.train.profiles.profiling import ProfilingReporter

        reporter = ProfilingReporter(reporter, given.profile)
    return begin_fine_tuning(folder, config, reporter, launch=launch).train()


def _main_of_rank(arguments: Sequence[str] | None, launch: Launch) -> dict[str, Any]:
    """The same in one of several processes: the first reads the command line, and tells the others."""
    from concord.train.ranks.joined import joined, on_device
    from concord.train.runs.begin import begin_fine_tuning

    told: list[Reporter] = []

    def prepare() -> tuple[RunFolder, RunConfig]:
        given = build_parser().parse(arguments)
        folder = restarted_folder(given, launch) or resumed_folder(given)
        if getattr(given, "print_config", False):
            _print_config(given, folder)
            raise SystemExit(0)
        for name in ("seeds", "profile"):
            if hasattr(given, name):
                raise InputError(f"--{name}: one process does it, without torchrun; this is one of {launch.size}")
        if folder and (folder.path / SEEDS_FILE).is_file():
            raise InputError(f"{folder.path}: of several seeds, which one process runs side by side, without torchrun")
        told.append(reporter_of(given))
        return _begun_or_gone_on(given, folder)

    with joined(launch) as ranks:
        folder, config = ranks.tell(prepare)
        if not ranks.leads:
            import_own_of(config)
        return begin_fine_tuning(
            folder, config, told[0] if told else SILENT, on_device(ranks, launch, config.device), launch
        ).train()


def _begun_or_gone_on(given: argparse.Namespace, folder: RunFolder | None) -> tuple[RunFolder, RunConfig]:
    """Where the run lies and its settings; folder: of one that goes on."""
    if folder is None:
        config = config_from(given)
        return new_folder(given, f"{'-'.join(config.tasks)}-{config.surgery.replace(':', '.')}"), config
    config = _config_of(given, folder)
    return folder_to_go_on(folder, config.save_every, files_before_state(config.tasks)), config


def _print_config(given: argparse.Namespace, folder: RunFolder | None) -> None:
    print(toml_of(_config_of(given, folder) if folder else config_from(given)), end="")


def _config_of(given: argparse.Namespace, folder: RunFolder) -> RunConfig:
    """The settings of a run that goes on: its own, or those of the command line where its processes are restarted that
    were killed before they had written any. InputError as `resumed_config` and `read_config` raise it."""
    path = folder.path / CONFIG_FILE
    if not hasattr(given, "resume") and not exists(path) and not has_state(folder.path):
        return config_from(given)
    return resumed_config(read_config(path), given, folder.path)


def reporter_of(given: argparse.Namespace) -> Reporter:
    """What tells of a run, as the flags ask for it."""
    from concord.train.outputs.progress import ConsoleReporter
    from concord.train.outputs.reporters import JsonReporter, QuietReporter

    if getattr(given, "json", False):
        if getattr(given, "quiet", False):
            raise InputError("--json and --quiet: expected one of them")
        return JsonReporter()
    return QuietReporter() if getattr(given, "quiet", False) else ConsoleReporter()


if __name__ == "__main__":
    sys.exit(run_command(main, takes_ranks=True))
