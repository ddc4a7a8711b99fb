"""The tools that --report-to tells of a run, a line for each; nothing of them is imported before it is used."""

from dataclasses import dataclass
from importlib.util import find_spec

from concord.bert.errors import InputError
from concord.bert.tables import Entry, Table, is_own

_FOLDER = "concord.train.outputs.adapters"


@dataclass(frozen=True, kw_only=True)
class AdapterEntry(Entry):
    """An adapter: (directory, settings, step) -> an object with `log` and `close`, see `outputs.adapters.told.Adapter`.

    Attributes:
        package: what it imports.
        install: what pip is asked for.
    """

    package: str = ""
    install: str = ""


def _adapter(name: str, text: str, install: str = "") -> AdapterEntry:
    kind = {"mlflow": "MLflow", "wandb": "WandB"}.get(name, name.capitalize())
    return AdapterEntry(
        name=name, help=text, target=f"{_FOLDER}.to_{name}:{kind}", package=name, install=install or name
    )


ADAPTERS = Table(
    "adapter",
    AdapterEntry,
    _adapter("tensorboard", "event files in the run's folder"),
    _adapter("wandb", "Weights & Biases"),
    _adapter("mlflow", "an MLflow run, by MLFLOW_TRACKING_URI", "mlflow-skinny"),
    _adapter("trackio", "Trackio"),
)


def check_installed(names: tuple[str, ...]) -> None:
    """InputError that says what to install for the first adapter whose package is missing."""
    for name in names:
        entry = ADAPTERS.entry(name)
        if not is_own(name) and find_spec(entry.package) is None:
            raise InputError(
                f"--report-to {name}: the package {entry.package} is not installed; pip install {entry.install}"
            )
