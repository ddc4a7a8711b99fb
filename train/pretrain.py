"""Pre-train further: python -m train.pretrain --data FILE_OR_DIR [--model minilm] [--out DIR] [--resume DIR] ...

A masked language model learns from raw text; what it leaves in --out is a model that train.run --model DIR starts from.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.flags import OneLineParser, argument_of, from_anywhere, resumed_config, settings_parser
from concord.train.outputs.names import PRETRAINING_FILE, pretraining_files_before_state
from concord.train.run_folder import folder_to_go_on, new_folder, resumed_folder
from concord.train.settings.config import NEW_HEAD_RATE, RunConfig
from concord.train.settings.definitions import is_tasks_file
from concord.train.settings.files import read_config
from concord.train.settings.named_data import with_data
from concord.train.settings.options import AUTO, flag_of

# The settings of a run that pre-training has too -> their defaults here; None keeps the run's default.
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(
        ("data", "tasks", "skip_bad_rows", "model", "lower_case", "max_length", "hidden_dropout", "attention_dropout")
    ),
    "epochs": None,
    "max_steps": None,
    "batch_size": 4,
    "accumulate": 32,
    "learning_rate": 5e-5,
    "head_learning_rate": (),
    "warmup": None,
    "weight_decay": None,
    "clip": None,
    **dict.fromkeys(("amp", "kernels", "products", "self_check", "device", "seed", "log_every", "save_every")),
}
_HELP = {
    "data": "file with one text a line, tasks.toml, directory in the course layout, or demo for the generated data set",
    "tasks": "tasks whose training sentences are read, where the data is no file",
    "epochs": "passes over the texts",
    "batch_size": "texts in a micro-batch",
    "accumulate": "micro-batches a step",
    "learning_rate": "peak rate of the encoder; -1 for one that suits the model's width",
    "head_learning_rate": f"peak rate of the head; by default that of the encoder, or {NEW_HEAD_RATE} where it is new",
    "seed": "of a new head, batches, masks and dropout",
    "save_every": "steps between two states that --resume can start from",
}


def build_parser() -> OneLineParser:
    """The command line of `python -m train.pretrain`."""
    parser = settings_parser(
        "python -m train.pretrain",
        "Train a BERT further as a masked language model, on raw text.",
        "of the model to be made",
    )
    for option in fields(RunConfig):
        if option.name in _SETTINGS:
            default = _SETTINGS[option.name]
            argument = argument_of(option, option.default if default is None else default, _HELP.get(option.name))
            if option.name == "head_learning_rate":
                argument.update(type=_one_rate, metavar="float")
            if option.name == "accumulate":
                argument["metavar"] = "int"
            parser.add_argument(flag_of(option.name), **argument)
    return parser


def _one_rate(text: str) -> tuple[str]:
    """What a run takes for each task, and here is one number."""
    if "," in text or "=" in text:
        raise InputError(f"--head-learning-rate {text}: expected one number, there is one head")
    return (text,)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line, and return what summary.json tells of the run; raises InputError for bad input. It may be
    called in any thread, and handles signals in the main one."""
    given = build_parser().parse(arguments)
    folder = resumed_folder(given)
    if folder is None:
        config = config_from(given)
        folder = new_folder(given, "pretrain")
    else:
        config = resumed_config(read_settings(folder.path / PRETRAINING_FILE), given, folder.path)
        folder = folder_to_go_on(folder, config.save_every, pretraining_files_before_state())

    def write_settings(path: Path) -> None:
        content = {name: asdict(config)[name] for name in _SETTINGS}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    # Imported once the flags have proved good: torch comes with it.
    from concord.train.outputs.progress import ConsoleReporter
    from concord.train.runs.pre_training import begin_pre_training

    return begin_pre_training(folder, config, ConsoleReporter(), write_settings).train()


def config_from(arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the flags describe; InputError where a value is not allowed."""
    defaults = {name: value for name, value in _SETTINGS.items() if value is not None}
    given = {name: from_anywhere(name, value) for name, value in vars(arguments).items() if name in _SETTINGS}
    if is_tasks_file(Path(given.get("data", ""))):
        given["tasks"] = with_data({name: given[name] for name in ("data", "tasks") if name in given})["tasks"]
    config = RunConfig(**{**defaults, **given})
    if config.accumulate == AUTO:
        raise InputError(f"--accumulate {AUTO}: it is of train.run; expected the number of micro-batches a step")
    return config


def read_settings(path: Path) -> RunConfig:
    """The configuration in a pre-training's folder; InputError where the file is missing or holds something else."""
    return read_config(path, _SETTINGS, content_is="settings", of="a pre-training")


if __name__ == "__main__":
    sys.exit(run_command(main))
