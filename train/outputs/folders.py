"""A run's folder: one run alone begins in it, and what a killed run left there without a state can be cleared away."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import parts_of
from concord.train.outputs.log import MetricsLog
from concord.train.outputs.names import METRICS_FILE

_TEMPORARY = ".tmp" + 6 * "[0-9A-Za-z]"  # the name that safetensors gives to a file while writing it


@dataclass(frozen=True)
class RunFolder:
    """Where a run goes on, or begins once its input has proved good.

    Attributes:
        path: of the folder.
        resumed: whether a run goes on in it.
        numbered: whether a new run that finds the folder taken appends a number to its name.
    """

    path: Path
    resumed: bool = False
    numbered: bool = False

    def claim(self) -> Path:
        """Make the folder of a new run and return its path, which no other run has or will get.

        InputError where another run has begun in it and it is not `numbered`.
        """
        path, number = self.path, 1
        while not _created(path):
            if not self.numbered:
                raise InputError(f"--out {path}: another run has begun there meanwhile; give another")
            number += 1
            path = self.path.with_name(f"{self.path.name}-{number}")
        return path


def _created(directory: Path) -> bool:
    """Whether this process has begun the folder's log: of several that try, one does."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        (directory / METRICS_FILE).open("x").close()
    except FileExistsError:
        return False
    return True


def clear_folder(directory: Path, files: Iterable[str]) -> None:
    """Remove `files`, by their paths within the folder, and what killed processes were writing in their place.

    Folders within it that are empty then are removed, too. Whatever else it holds stays. InputError where a run is
    under way in the folder.
    """
    if (directory / METRICS_FILE).exists():
        MetricsLog(directory).close()  # InputError while another process has it open
    paths = [directory / name for name in files]
    folders = {path.parent for path in paths}
    parts = [part for path in paths for part in parts_of(path)]
    parts += [part for folder in folders for part in folder.glob(_TEMPORARY)]
    for written in paths + parts:
        written.unlink(missing_ok=True)
    for folder in folders - {directory}:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
