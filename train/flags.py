"""The command line of a training run, made from the fields of its configuration."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from concord.bert.errors import InputError
from concord.train.settings.config import RunConfig
from concord.train.settings.definitions import is_table_name
from concord.train.settings.named_data import PATHS, with_data
from concord.train.settings.options import GROUPS, flag_of, setting_text
from concord.train.settings.own import check_trusted, import_own, own_names
from concord.train.settings.recipes import read_recipe, recipes
from concord.train.settings.tables import DEMO

# The settings that may name code of the user's own.
_OF_TABLES = tuple(option.name for option in fields(RunConfig) if "tables" in option.metadata)
# What other trainers call a flag -> what it is here.
_ELSEWHERE = {
    "--lr": "--learning-rate",
    "--lr-head": "--head-learning-rate",
    "--output-dir": "--out",
    "--outdir": "--out",
    "--num-train-epochs": "--epochs",
    "--n-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--per-device-train-batch-size": "--batch-size",
    "--train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--accumulate",
    "--model-name-or-path": "--model",
    "--pretrained": "--model",
    "--max-seq-length": "--max-length",
    "--warmup-ratio": "--warmup",
    "--warmup-steps": "--warmup",
    "--lr-scheduler-type": "--schedule",
    "--scheduler": "--schedule",
    "--max-grad-norm": "--clip",
    "--grad-clip": "--clip",
    "--fp16": "--amp fp16",
    "--bf16": "--amp bf16",
    "--eval-steps": "--evaluate-every",
    "--logging-steps": "--log-every",
    "--save-steps": "--save-every",
    "--resume-from-checkpoint": "--resume",
    "--use-gpu": "--device cuda",
    "--use-cpu": "--device cpu",
    "--no-cuda": "--device cpu",
    "--hidden-dropout-prob": "--hidden-dropout",
    "--pcgrad": "--surgery pcgrad",
    "--gradvac": "--surgery gradvac",
    "--task": "--tasks",
    "--data-dir": "--data",
    "--dataset": "--data",
    "--dataset-name": "--train-file",
    "--text-column-name": "--text-column",
    "--text-column-names": "--text-column",
    "--label-column-name": "--label-column",
    "--metric-for-best-model": "--best-metric",
    "--early-stopping-patience": "--early-stopping",
    "--patience": "--early-stopping",
    "--class-weight": "--class-weights",
}
# What --help shows of a run's settings; --help-all shows the others too.
_COMMON = (
    *("help", "out", "resume", "recipe", "recipes", "data", "tasks", "model", "heads", "losses", "surgery"),
    *("train_file", "text_column", "label_column"),
    *("granularity", "amp", "device", "kernels", "epochs", "max_steps", "batch_size", "accumulate", "stages"),
    *("learning_rate", "head_learning_rate", "seed", "evaluate_every", "skip_bad_rows"),
)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are InputErrors of one line, with the nearest flag where one is unknown."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        raise InputError(f"{message} (see --help)")

    def hide(self, shown: Collection[str]) -> None:
        """Have --help show the flags of the settings `shown` and of no others, and --help-all every one."""
        self._hidden = [action for action in self._actions if action.dest not in shown and action.option_strings]
        self.add_argument("--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS, help="show every flag")

    def format_help(self) -> str:
        """The help, without what is hidden."""
        texts = [(action, action.help) for action in getattr(self, "_hidden", ())]
        for action, _ in texts:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in texts:
                action.help = text

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse the command line, or `arguments`."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            raise InputError(f"unknown argument {unknown[0]}{_meant(unknown[0].split('=')[0], flags)}")
        return known


class _Columns(argparse.Action):
    """One setting of several words, each of which may be several names with commas."""

    def __call__(self, parser: argparse.ArgumentParser, into: argparse.Namespace, values: Any, *more: Any) -> None:
        setattr(into, self.dest, tuple(name for names in values for name in names))


class _HelpAll(argparse.Action):
    """Prints the help with nothing hidden."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> None:
        argparse.ArgumentParser.print_help(_shown_whole(parser))
        parser.exit()


def _shown_whole(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser._hidden = []
    return parser


def _meant(flag: str, flags: Sequence[str]) -> str:
    """What may have been meant by a flag that there is not: what other trainers call by it, or the nearest names."""
    plain = "--" + flag.lstrip("-").replace("_", "-").lower()
    if _ELSEWHERE.get(plain, "").split(" ")[0] in flags:
        return f": here it is {_ELSEWHERE[plain]}"
    near = difflib.get_close_matches(plain, flags, n=3, cutoff=0.6)
    near += [name for name in flags if plain.strip("-") in name and len(plain) > 4 and name not in near][:3]
    if not near:
        return ": there is nothing of the kind, --help lists the flags"
    return f": did you mean {' or '.join(near[:3])}?"


def settings_parser(prog: str, description: str, folder: str) -> OneLineParser:
    """A command line that takes settings, of which it has none yet, and the folder of what it makes.

    Flags that are not given are absent from the result, so that a resumed run can tell them from the defaults.
    """
    parser = OneLineParser(
        prog=prog,
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.MetavarTypeHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=str, help=f"folder {folder} (default runs/<time>-<name>)")
    parser.add_argument("--resume", type=str, help="go on with the stopped run in this folder")
    return parser


def build_parser() -> OneLineParser:
    """The command line of `python -m train.run`: a flag for each setting, and where the run goes."""
    parser = settings_parser(
        "python -m train.run", "Fine-tune one BERT on several tasks at once, with gradient surgery.", "of the run"
    )
    parser.add_argument("--recipes", action=_ListRecipes, nargs=0, help="list the recipes and stop")
    group: argparse._ActionsContainer = parser
    for option in fields(RunConfig):
        if option.name in GROUPS:
            group = parser.add_argument_group(GROUPS[option.name])
        group.add_argument(flag_of(option.name), **argument_of(option, option.default))
    parser.hide(_COMMON)
    return parser


class _ListRecipes(argparse.Action):
    """Prints a line about each recipe, as --help prints the flags."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> None:
        width = max(map(len, recipes()))
        for name in recipes():
            print(f"{name:<{width}}  {read_recipe(name).description}")
        parser.exit()


def config_from(arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the recipe and the flags over it describe; InputError where a value is not allowed, or
    code of the user's own that a flag names is not to be had."""
    given = with_data(_given(arguments))
    import_own(own_names(given, _OF_TABLES))
    if not given.get("recipe"):
        return RunConfig(**given)
    settings = read_recipe(given["recipe"]).settings | given
    try:
        return RunConfig(**settings)
    except InputError as error:
        raise InputError(f"{error} (with the settings of --recipe {given['recipe']})") from None


def import_own_of(config: RunConfig) -> None:
    """Import the user's own code that the settings name, in a process that has not read them itself."""
    import_own(own_names(vars(config), _OF_TABLES))


def resumed_config(config: RunConfig, arguments: argparse.Namespace, directory: Path) -> RunConfig:
    """The configuration of a run that is to go on: its own, with the place of its data and its number format where the
    command line names another (data that are not the same are refused later, by their digests).

    InputError where another flag contradicts it, or it names code that is not trusted, or not to be had.
    """
    given = _given(arguments)
    if config.train_file and "data" in given:
        given = {"train_file": given["data"]} | {name: value for name, value in given.items() if name != "data"}
    movable = ("data", "amp", *(name for name in PATHS if getattr(config, name)))
    for name, value in given.items():
        kept = getattr(config, name)
        if value != kept and name not in movable:
            raise contradiction(name, value, kept, directory)
    changed = replace(config, **{name: given[name] for name in movable if name in given})
    names = own_names(vars(changed), _OF_TABLES)
    check_trusted(names, own_names(given, _OF_TABLES), directory)
    import_own(names)
    return changed


def contradiction(name: str, value: Any, kept: Any, directory: Path) -> InputError:
    """What to raise where the setting `name` is to be `value`, and is `kept` for the run in `directory`."""
    return InputError(f"{flag_of(name)} {_shown(value)}: the run in {directory} has {_shown(kept)}")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = {option.name for option in fields(RunConfig)}
    return {name: from_anywhere(name, value) for name, value in vars(arguments).items() if name in names}


def from_anywhere(name: str, value: Any) -> Any:
    """The value of a setting, with a path made absolute, so that the run can be resumed from any folder."""
    if name in PATHS:
        is_path = Path(value).exists() or is_table_name(value)
    elif name == "data":
        is_path = value not in ("", DEMO) and not own_names({name: value}, (name,))
    else:
        is_path = name == "model" and value not in ("minilm", "tiny") and Path(value).is_dir()
    return str(Path(value).absolute()) if is_path else value


def argument_of(option: Field, default: Any, text: str | None = None) -> dict[str, Any]:
    """The arguments of argparse's add_argument for one field of `RunConfig`.

    default: what the help calls so; text: the help, where it is not the field's own.
    """
    text = text or option.metadata["help"]
    if option.type is bool:
        return {"action": "store_true", "help": text}
    listed = _listed(option)
    argument = {"help": f"{text}{listed} (default {_shown(default)})", "type": option.type}
    if isinstance(option.default, tuple):
        argument.update(type=_names, metavar="a,b,...")
    if option.name == "text_column":
        argument.update(nargs="+", action=_Columns, metavar="a b")
    if option.name == "amp":
        argument.update(nargs="?", const="auto")
    return argument


def _listed(option: Field) -> str:
    """What a setting may be, to end its help with: of families each member with its phrase, and code of the user's own.

    A setting with tables but no choices, such as a folder, says in its own help what it may be.
    """
    choices = option.metadata.get("choices") or option.metadata.get("each")
    if not choices:
        return ""
    if "tables" not in option.metadata:
        return f": {', '.join(choices)}"
    members = [f"{entry.name} ({entry.help})" for table in option.metadata["tables"] for entry in table]
    return f": {', '.join([*option.metadata['also'], *members])}, or module:function of your own"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shown(value: Any) -> str:
    return setting_text(value) or "none"
