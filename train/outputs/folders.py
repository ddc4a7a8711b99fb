"""A run's folder: one run alone begins in it, and what a killed run left there without a state can be cleared away."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from concord.bert.errors import InputError, one_line
from concord.bert.files import is_file, make_folder, read_data, replacing, sweep
from concord.bert.names import SENTENCE_FOLDERS
from concord.train.outputs.log import MetricsLog, read_lines
from concord.train.outputs.names import (
    BEST,
    EARLIER_STATE_FILE,
    LAUNCH_FILE,
    METRICS_FILE,
    SEEDS_FILE,
    STATE_FILE,
    STUDY_FILE,
    SUMMARY_FILE,
)

_SHOWN = 5  # runs of a folder of several that a message names


@dataclass(frozen=True)
class RunFolder:
    """Where a run goes on, or begins once its input has proved good.

    Attributes:
        path: of the folder.
        resumed: whether a run goes on in it.
        numbered: whether a new run that finds the folder taken appends a number to its name.
        precision_given: whether the user names the number format of the rest of a run that goes on.
        anew: the files that a killed run may have left here, by their paths within the folder, where its settings are
            run anew from the beginning; empty for every other run.
    """

    path: Path
    resumed: bool = False
    numbered: bool = False
    precision_given: bool = False
    anew: tuple[str, ...] = ()

    def claim(self, first: str = METRICS_FILE) -> Path:
        """Make the folder of a new run and return its path, which no other run has or will get; or that of the folder
        where a killed run is begun anew, which the lock on its log gives to one process.

        first: the file that is made with the folder, empty, by which it is known to be taken.

        InputError where another run has begun in it and it is not `numbered`.
        """
        if self.anew:
            return self.path
        path, number = self.path, 1
        while not _created(path / first):
            if not self.numbered:
                raise InputError(f"--out {path}: another run has begun there meanwhile; give another")
            number += 1
            path = self.path.with_name(f"{self.path.name}-{number}")
        return path


def check_single(directory: Path) -> None:
    """InputError where a folder is that of several runs, of seeds or of a sweep, which are called by their own."""
    for name, what in ((SEEDS_FILE, "several seeds"), (STUDY_FILE, "a sweep")):
        if is_file(directory / name):
            runs = sorted(
                (log.parent.name for log in directory.glob(f"*/{METRICS_FILE}")), key=lambda own: (len(own), own)
            )
            more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
            found = ", ".join(one_line(own, 30) for own in runs[:_SHOWN]) + more
            one = f"one of {found} in it" if runs else "the folder of one run, of which none has begun"
            raise InputError(f"{directory}: a folder of the runs of {what}, expected {one}")


def _created(file: Path) -> bool:
    """Whether this process has begun a file in a folder: of several that try, one does."""
    make_folder(file.parent)
    try:
        file.open("x").close()
    except FileExistsError:
        return False
    return True


def clear_folder(directory: Path, files: Iterable[str]) -> None:
    """Remove `files`, by their paths within the folder, and what killed processes were writing in their folders.

    Folders within it that are empty then are removed, too. Whatever else it holds stays. InputError where a run is
    under way in the folder.
    """
    if (directory / METRICS_FILE).exists():
        MetricsLog(directory).close()  # InputError while another process has it open
    remove(directory, files)


def remove(directory: Path, files: Iterable[str]) -> None:
    """What `clear_folder` does, where the caller holds the folder's lock."""
    paths = [directory / name for name in files]
    for path in paths:
        path.unlink(missing_ok=True)
    inner_first = sorted({directory, *(path.parent for path in paths)}, key=lambda folder: -len(folder.parts))
    for folder in inner_first:
        sweep(folder, alone=True)
        if folder != directory and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def sweep_run(directory: Path) -> None:
    """Remove what killed processes were writing in a run's folder, whose lock the caller holds."""
    for folder in (directory, directory / BEST, *(directory / BEST / name for name in SENTENCE_FOLDERS)):
        sweep(folder, alone=True)


def note_launch(directory: Path, name: str) -> None:
    """Keep in a run's folder what has launched its processes, so that these find it again when they are restarted."""
    with replacing(directory / LAUNCH_FILE) as beside:
        beside.write_text(name + "\n", encoding="utf-8")


def is_of_launch(directory: Path, name: str) -> bool:
    """Whether a run's folder is of the launch `name`."""
    try:
        return bool(name) and (directory / LAUNCH_FILE).read_text(encoding="utf-8") == name + "\n"
    except (OSError, ValueError):
        return False


def has_state(directory: Path) -> bool:
    """Whether there is a state in a run's folder, be it damaged."""
    return any((directory / name).exists() for name in (STATE_FILE, EARLIER_STATE_FILE))


def lost_its_states(directory: Path, save_every: int) -> bool:
    """Whether a run that has no state had one: it is finished, or its log goes on after the second step that was saved.

    A state is saved every so many steps at least, and after each evaluation but that before the first step. It is
    written while the run goes on, and is on the disk before the next one is saved.
    """
    if (directory / SUMMARY_FILE).exists():
        return True
    log = directory / METRICS_FILE
    entries = read_lines(read_data(log, "the log of a run"))[0] if log.exists() else []
    evaluated = {entry["step"] for entry in entries if entry["event"] == "evaluation" and entry["step"]}
    second = sorted({save_every, 2 * save_every, *evaluated})[1]
    return any(entry["step"] > second for entry in entries)
