"""Train: python -m train.run --amp --surgery pcgrad [--data DIR] [--tasks sst,paraphrase,sts] [--resume DIR] ...

With no other argument it trains the bundled MiniLM on a data set that the project generates itself, on a CPU or GPU.
On several: torchrun --nproc-per-node N -m train.run ...
"""

import sys
from collections.abc import Sequence
from typing import Any

from concord.train.command import run_command
from concord.train.flags import build_parser, config_from, import_own_of, resumed_config
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.names import CONFIG_FILE, files_before_state
from concord.train.ranks.environment import Launch, launch_of
from concord.train.run_folder import folder_to_go_on, new_folder, restarted_folder, resumed_folder
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line, and return what summary.json tells of the run; raises InputError for bad input. It may be
    called in any thread, and handles signals in the main one. Of several ranks the first alone has a summary."""
    launch = launch_of()
    if launch is not None and launch.size > 1:
        return _main_of_rank(arguments, launch)
    folder, config = _prepare(arguments, launch)
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.progress import ConsoleReporter
    from concord.train.runs.begin import begin_fine_tuning

    return begin_fine_tuning(folder, config, ConsoleReporter(), launch=launch).train()


def _main_of_rank(arguments: Sequence[str] | None, launch: Launch) -> dict[str, Any]:
    """The same in one of several processes: the first reads the command line, and tells the others."""
    from concord.train.outputs.progress import ConsoleReporter
    from concord.train.ranks.joined import joined, on_device
    from concord.train.reporter import SILENT
    from concord.train.runs.begin import begin_fine_tuning

    with joined(launch) as ranks:
        folder, config = ranks.tell(lambda: _prepare(arguments, launch))
        if not ranks.leads:
            import_own_of(config)
        ranks = on_device(ranks, launch, config.device)
        reporter = ConsoleReporter() if ranks.leads else SILENT
        return begin_fine_tuning(folder, config, reporter, ranks, launch).train()


def _prepare(arguments: Sequence[str] | None, launch: Launch | None) -> tuple[RunFolder, RunConfig]:
    """What the command line asks for: where, and with which settings."""
    given = build_parser().parse(arguments)
    folder = restarted_folder(given, launch) or resumed_folder(given)
    if folder is None:
        config = config_from(given)
        return new_folder(given, f"{'-'.join(config.tasks)}-{config.surgery.replace(':', '.')}"), config
    config = resumed_config(read_config(folder.path / CONFIG_FILE), given, folder.path)
    return folder_to_go_on(folder, config.save_every, files_before_state(config.tasks)), config


if __name__ == "__main__":
    sys.exit(run_command(main, takes_ranks=True))
