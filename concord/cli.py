"""The command `concord`: what is typed as `python -m train.run` and its siblings in a checkout, wherever installed."""

import sys
from collections.abc import Sequence
from importlib import import_module

from concord import __version__

# Subcommand -> its module, the arguments that it stands for, and what it does.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "run": ("concord.train.run", (), "train a model on several tasks"),
    "evaluate": ("concord.train.evaluate", (), "evaluate a run's best model on the dev sets"),
    "predict": ("concord.train.predict", (), "answer a file with a run's best model"),
    "export": ("concord.train.export", (), "write a run's best model for another library"),
    "runs": ("concord.train.runs_list", (), "list the runs in a folder, with how they stand"),
    "compare": ("concord.train.compare", (), "compare runs: settings, scores, speed, conflicts"),
    "report": ("concord.train.report", (), "draw a run's page, report.html, anew"),
    "sweep": ("concord.train.sweep", (), "search settings, trial by trial"),
    "pretrain": ("concord.train.pretrain", (), "train a BERT further on raw text"),
    "reproduce": ("concord.train.reproduce", (), "run the systems of a paper and write its tables"),
    "recipes": ("concord.train.run", ("--recipes",), "list the named systems"),
    "demo": ("concord.train.demo", (), "write the generated data set"),
    "data": ("concord.train.data_check", (), "look at data before training on them"),
    "doctor": ("concord.train.doctor", (), "judge every kernel on this machine"),
}
BAD_INPUT = 2


def usage() -> str:
    """The subcommands, a line each."""
    lines = [f"  {name:<10} {does}" for name, (_, _, does) in COMMANDS.items()]
    return "\n".join(
        ["usage: concord COMMAND ...", "", *lines, "", "concord COMMAND --help lists the flags of a command."]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that the arguments begin with, and return its exit code; 2 where there is none of the name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0 if given else BAD_INPUT
    if given[0] == "--version":
        print(f"concord {__version__}")
        return 0
    if given[0] not in COMMANDS:
        print(f"error: concord {given[0]}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    module, stands_for, _ = COMMANDS[given[0]]
    command = import_module(module)
    return import_module("concord.train.command").run_command(
        command.main, [*stands_for, *given[1:]], takes_ranks=given[0] == "run"
    )


if __name__ == "__main__":
    sys.exit(main())
