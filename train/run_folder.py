"""The folder of a run as the command line names it: of a new one, or of one that goes on."""

import argparse
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from concord.bert.errors import InputError, shown
from concord.bert.files import exists, is_folder
from concord.bert.names import SENTENCE_FOLDERS
from concord.train.outputs.folders import RunFolder, has_state, is_of_launch, lost_its_states
from concord.train.outputs.names import BEST, METRICS_FILE
from concord.train.ranks.environment import Launch

RUNS = "runs"  # the folder of runs without --out


def new_folder(arguments: argparse.Namespace, name: str) -> RunFolder:
    """The folder of a new run, which is made once its input has proved good; InputError where it is not empty."""
    out = getattr(arguments, "out", None)
    if not out:
        return RunFolder(Path(RUNS) / f"{datetime.now():%Y%m%d-%H%M%S}-{name}", numbered=True)
    directory = Path(out)
    _check_name(directory, "out")
    if is_folder(directory) and any(directory.iterdir()):
        resume = f", or --resume {directory}" if has_state(directory) else ""
        raise InputError(f"--out {directory}: the folder is not empty; give another{resume}")
    if exists(directory) and not is_folder(directory):
        raise InputError(f"--out {directory}: a file is in the way, expected a folder")
    return RunFolder(directory)


def restarted_folder(arguments: argparse.Namespace, launch: Launch | None) -> RunFolder | None:
    """The folder of the run that the processes of this launch had begun before they were restarted, None where there
    is none: it goes on by the same command line.

    The folder that --out names is looked at in any case, and those of runs without it after a restart.
    """
    if launch is None or hasattr(arguments, "resume"):
        return None
    out = getattr(arguments, "out", None)
    if out:
        folders = [Path(out)]
    else:
        folders = sorted(path for path in Path(RUNS).glob("*") if path.is_dir()) if launch.restarts else []
    for folder in reversed(folders):
        if is_of_launch(folder, launch.name):
            return RunFolder(folder, resumed=True, precision_given=getattr(arguments, "amp", "auto") != "auto")
    return None


def _check_name(directory: Path, flag: str) -> None:
    """InputError where a folder's whole name is not UTF-8: the libraries that write and read tensors take no other."""
    try:
        str(directory.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"--{flag} {shown(str(directory))}: its name is not UTF-8, expected another folder") from None


def resumed_folder(arguments: argparse.Namespace) -> RunFolder | None:
    """The folder of the run that is to go on, None where a new one begins; InputError where --out names another."""
    if not hasattr(arguments, "resume"):
        return None
    directory = Path(arguments.resume)
    _check_name(directory, "resume")
    if hasattr(arguments, "out") and Path(arguments.out).resolve() != directory.resolve():
        raise InputError(f"--out {arguments.out}: a resumed run stays in its folder {directory}")
    return RunFolder(directory, resumed=True, precision_given=getattr(arguments, "amp", "auto") != "auto")


def folder_to_go_on(folder: RunFolder, save_every: int, files: Iterable[str]) -> RunFolder:
    """The folder of a run that is to go on; where it was killed before its first state, one in which it begins anew.

    save_every: steps between two states; files: what it may have left by then. InputError where its states are gone,
    or where a link lies in place of what it appends to or writes into.
    """
    for name in (METRICS_FILE, BEST, *(f"{BEST}/{inner}" for inner in SENTENCE_FOLDERS)):
        if (folder.path / name).is_symlink():
            raise InputError(
                f"{folder.path / name}: a link, which a run does not write through; put what it leads to there"
            )
    if has_state(folder.path):
        return folder
    if lost_its_states(folder.path, save_every):
        raise InputError(f"{folder.path}: its saved states are gone; start the run anew, in another folder")
    return RunFolder(folder.path, anew=tuple(files))
