"""Train: python -m train.run --amp --surgery pcgrad [--data DIR] [--tasks sst,paraphrase,sts] [--resume DIR] ...

With no other argument it trains the bundled MiniLM on a data set that the project generates itself, on a CPU or GPU.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import build_parser, config_from, resumed_config
from concord.train.outputs.names import CONFIG_FILE, SEEDS_FILE, files_before_state
from concord.train.reporter import Reporter
from concord.train.run_folder import folder_to_go_on, new_folder, resumed_folder
from concord.train.settings.files import read_config, toml_of


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the command line, and return what summary.json tells of the run, or nothing where it only prints; raises
    InputError for bad input. It may be called in any thread, and handles signals in the main one."""
    given = build_parser().parse(arguments)
    folder = resumed_folder(given)
    if getattr(given, "profile", 1) < 1:
        raise InputError(f"--profile {given.profile}: expected a number of steps, at least 1")
    if getattr(given, "print_config", False):
        kept = read_config(folder.path / CONFIG_FILE) if folder else None
        print(toml_of(resumed_config(kept, given, folder.path) if folder else config_from(given)), end="")
        return None
    if hasattr(given, "seeds") or (folder and (folder.path / SEEDS_FILE).is_file()):
        if hasattr(given, "profile"):
            raise InputError("--profile: it is of one run, not of several seeds")
        from concord.train.seeds import run_seeds  # torch comes with it

        return run_seeds(given, reporter_of(given))
    if folder is None:
        config = config_from(given)
        folder = new_folder(given, f"{'-'.join(config.tasks)}-{config.surgery.replace(':', '.')}")
    else:
        config = resumed_config(read_config(folder.path / CONFIG_FILE), given, folder.path)
        folder = folder_to_go_on(folder, config.save_every, files_before_state(config.tasks))
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.runs.begin import begin_fine_tuning

    reporter = reporter_of(given)
    if hasattr(given, "profile"):
        from concord.train.profiles.profiling import ProfilingReporter

        reporter = ProfilingReporter(reporter, given.profile)
    return begin_fine_tuning(folder, config, reporter).train()


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
    sys.exit(run_command(main))
