"""Named recipes: the systems of five papers as readable files, one a system, and the papers' tables.

PAPER/paper.toml holds what all systems of a paper share, and its tables with the figures that it reports; each other
file of the folder is one system: a line that describes it, and a handful of settings, by the names of the flags; its
base is another system of the folder, over whose settings its own stand.
"""

import difflib
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from concord.bert.errors import InputError, did_you_mean
from concord.train.settings.settings_file import SettingsFile, checked_setting, read_settings_file

FOLDER = Path(__file__).parent
_PAPER_FILE = "paper.toml"
_OTHERS = {"description": str, "pretrain": bool, "base": str}  # keys of a system that are no settings
OWN_SUFFIX = ".toml"  # of a recipe that the user names by its path


@dataclass(frozen=True)
class Recipe:
    """One system of a paper.

    Attributes:
        name: PAPER/SYSTEM, or the path of a file of the user's own.
        description: one line about it.
        file: with its settings, which stand for the defaults of RunConfig.
        pretrain: whether the encoder is first pre-trained further on the tasks' sentences.
    """

    name: str
    description: str
    file: SettingsFile
    pretrain: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Name -> value."""
        return self.file.settings


@dataclass(frozen=True)
class Row:
    """A row of a paper's table. Where several systems make it, each brings the scores of its own tasks.

    Attributes:
        name: as the paper calls it.
        systems: the recipes' names without the paper's.
        figures: task, or `overall` -> the dev score that the paper reports; none where the row is ours.
        test: task, or `overall` -> the test score that the paper reports.
    """

    name: str
    systems: tuple[str, ...]
    figures: dict[str, float]
    test: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        title: as the paper has it.
        rows: its systems.
        notes: what is to be known of its figures, a paragraph each.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """A paper whose systems are recipes.

    Attributes:
        name: the short name, by which commands know it.
        title: as it was published.
        tables: in the paper's order.
        pretraining: settings of its further pre-training, name -> value.
        overall: its overall score: "course", in which Pearson's r counts as (r + 1) / 2, or "mean" of the three.
    """

    name: str
    title: str
    tables: tuple[Table, ...]
    pretraining: dict[str, Any]
    overall: Literal["course", "mean"]


def papers() -> list[str]:
    """The papers' short names."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{_PAPER_FILE}"))


def read_paper(name: str) -> Paper:
    """A paper and its tables; InputError where there is none of that name."""
    if name not in papers():
        raise InputError(f"paper {name}: {did_you_mean(name, papers())}")
    content = _read(FOLDER / name / _PAPER_FILE)
    tables = [
        Table(
            table["title"],
            tuple(
                Row(row["name"], tuple(row["systems"]), row.get("figures", {}), row.get("test", {}))
                for row in table["rows"]
            ),
            tuple(table.get("notes", ())),
        )
        for table in content.get("tables", ())
    ]
    return Paper(
        name,
        content["title"],
        tuple(tables),
        content.get("pretraining", {}),
        content.get("overall", "course"),
    )


def recipes() -> list[str]:
    """The names of all recipes, PAPER/SYSTEM."""
    found = (path.relative_to(FOLDER) for path in FOLDER.glob("*/*.toml") if path.name != _PAPER_FILE)
    return sorted(path.with_suffix("").as_posix() for path in found)


def read_recipe(name: str) -> Recipe:
    """The recipe PAPER/SYSTEM, or the one in a file of the user's own, whose name ends in .toml; InputError where there
    is none, or its file holds what is no setting."""
    if name.endswith(OWN_SUFFIX):
        file = read_settings_file(Path(name), {"description": str}, without=("recipe",))
        return Recipe(name, file.others.get("description", ""), file)
    if name not in recipes():
        nearest = difflib.get_close_matches(name, recipes(), n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise InputError(f"--recipe {name}: there is none of that name; {hint}--recipes lists them")
    path = FOLDER / f"{name}.toml"
    own = read_settings_file(path, _OTHERS, without=("recipe",))
    if "base" in own.others:
        base = read_settings_file(path.with_name(f"{own.others['base']}.toml"), _OTHERS, without=("recipe",))
        own = replace(own, settings=base.settings | own.settings, others=base.others | own.others)
    shared = path.parent / _PAPER_FILE
    settings = _read(shared).get("settings", {}) if shared.exists() else {}
    settings = {key: checked_setting(key, value, str(shared)) for key, value in settings.items()} | own.settings
    file = replace(own, settings=settings)
    return Recipe(name, own.others["description"], file, own.others.get("pretrain", False))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a recipe ({error})") from None
