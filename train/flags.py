"""The command line of a training run, made from the fields of its configuration."""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from concord.bert.errors import InputError, shown
from concord.train.elsewhere import meant
from concord.train.settings.config import RunConfig
from concord.train.settings.layers import OF_TABLES, layered, over_file
from concord.train.settings.named_data import PATHS, from_anywhere
from concord.train.settings.options import AUTO, GROUPS, WHOLE_OR_AUTO, flag_of, setting_text
from concord.train.settings.own import check_trusted, import_own, own_names
from concord.train.settings.recipes import read_recipe, recipes
from concord.train.settings.settings_file import SettingsFile, read_settings_file

# What --help shows of a run's settings; --help-all shows the others too.
_COMMON = (
    *(
        "help",
        "out",
        "resume",
        "config",
        "seeds",
        "recipe",
        "recipes",
        "data",
        "tasks",
        "model",
        "heads",
        "losses",
        "surgery",
    ),
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
            raise InputError(f"unknown argument {unknown[0]}{meant(unknown[0].split('=')[0], flags)}")
        return known


def check_numbers(given: argparse.Namespace, **bounds: tuple[float, float]) -> None:
    """InputError for a number that lies outside of its bounds, or is none; bounds: the least and the greatest of each
    flag, by its name in `given`, where one that was not given is None."""
    for name, (low, high) in bounds.items():
        value = getattr(given, name)
        if value is not None and not low <= value <= high:  # which is false for NaN too
            raise InputError(f"{flag_of(name)} {shown(value)}: expected a number from {low} to {high}")


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
    parser.add_argument("--config", type=str, help="settings in a .toml or a run's config.json; flags win over them")
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings as --config reads them and stop"
    )
    parser.add_argument(
        "--seeds", type=str, help="several seeds, such as 1,2,3: a run each in one folder, side by side"
    )
    parser.add_argument("--profile", type=int, metavar="N", help="profile N steps: a table by class of op, and a trace")
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings and errors")
    parser.add_argument("--json", action="store_true", help="print one event a line, as JSON")
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
    """The configuration that the flags describe, over the file of --config, over a recipe; InputError where a value is
    not allowed, or code of the user's own is not to be had."""
    path = getattr(arguments, "config", "")
    return layered(_given(arguments), Path(path) if path else None)


def import_own_of(config: RunConfig) -> None:
    """Import the user's own code that the settings name, in a process that has not read them itself."""
    import_own(own_names(vars(config), OF_TABLES))


def resumed_config(config: RunConfig, arguments: argparse.Namespace, directory: Path) -> RunConfig:
    """The configuration of a run that is to go on: its own, with the place of its data, its number format and what else
    is told of it where the command line names another (data that are not the same are refused later, by their digests).

    A command that is restarted has no --resume, and may have the --config that the run began with, whose settings are
    then as if they were flags.

    InputError where another flag contradicts it, or a setting in the file, or --resume and --config are both given, or
    it names code that is not trusted, or not to be had.
    """
    flags, file = _given(arguments), SettingsFile(Path(), {})
    if hasattr(arguments, "config"):
        if hasattr(arguments, "resume"):
            raise InputError(f"--config {arguments.config}: the run in {directory} goes on with its own settings")
        file = read_settings_file(Path(arguments.config))
    given = over_file(flags, file)
    if config.train_file and "data" in given:
        given = {"train_file": given["data"]} | {name: value for name, value in given.items() if name != "data"}
    movable = ("data", "amp", "report_to", *(name for name in PATHS if getattr(config, name)))
    for name, value in given.items():
        kept = getattr(config, name)
        if value != kept and name not in movable:
            place = f" ({file.place_of(name)})" if name in file.settings and name not in flags else ""
            raise InputError(f"{contradiction(name, value, kept, directory)}{place}")
    changed = replace(config, **{name: given[name] for name in movable if name in given})
    names = own_names(vars(changed), OF_TABLES)
    check_trusted(names, own_names(flags, OF_TABLES), directory)
    import_own(names)
    return changed


def contradiction(name: str, value: Any, kept: Any, directory: Path) -> InputError:
    """What to raise where the setting `name` is to be `value`, and is `kept` for the run in `directory`."""
    return InputError(f"{flag_of(name)} {_shown(value)}: the run in {directory} has {_shown(kept)}")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = {option.name for option in fields(RunConfig)}
    return {name: from_anywhere(name, value) for name, value in vars(arguments).items() if name in names}


def argument_of(option: Field, default: Any, text: str | None = None) -> dict[str, Any]:
    """The arguments of argparse's add_argument for one field of `RunConfig`.

    default: what the help calls so; text: the help, where it is not the field's own.
    """
    text = text or option.metadata["help"]
    if option.type is bool:
        return {"action": "store_true", "help": text}
    listed = _listed(option)
    argument = {"help": f"{text}{listed} (default {_shown(default)})", "type": option.type}
    if option.type == WHOLE_OR_AUTO:
        argument.update(type=_number_or_auto, metavar=f"N|{AUTO}")
    if isinstance(option.default, tuple):
        argument.update(type=_names, metavar="a,b,...")
    if option.name == "text_column":
        argument.update(OF_COLUMNS)
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


def _number_or_auto(text: str) -> int | str:
    """What is no number stays a text, which the configuration judges."""
    try:
        return int(text)
    except ValueError:
        return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


OF_COLUMNS: dict[str, Any] = {"type": _names, "nargs": "+", "action": _Columns, "metavar": "a b"}
"""The arguments of argparse's add_argument for one or two columns, with commas or spaces between them."""


def _shown(value: Any) -> str:
    return setting_text(value) or "none"
