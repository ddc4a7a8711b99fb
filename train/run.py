"""Train: python -m train.run --amp --surgery pcgrad [--data DIR] [--tasks sst,paraphrase,sts] [--resume DIR] ...

With no other argument it trains the bundled MiniLM on a data set that the project generates itself, on a CPU or GPU.
"""

import sys
from collections.abc import Sequence

from concord.train.command import run_command
from concord.train.flags import build_parser, check_resumable, config_from, new_folder, resumed_folder
from concord.train.outputs.names import CONFIG_FILE
from concord.train.settings.files import read_config


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    given = build_parser().parse(arguments)
    folder = resumed_folder(given)
    if folder is None:
        config = config_from(given)
        folder = new_folder(given, f"{'-'.join(config.tasks)}-{config.surgery.replace(':', '.')}")
    else:
        config = read_config(folder.path / CONFIG_FILE)
        check_resumable(config, given, folder.path)
    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.progress import ConsoleReporter, RunConsole
    from concord.train.runs.begin import begin_fine_tuning

    begin_fine_tuning(folder, config, ConsoleReporter(RunConsole())).train()


if __name__ == "__main__":
    sys.exit(run_command(main))
