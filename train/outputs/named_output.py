"""The file that the user names for answers: refused where something would be lost by it, and written to as it is where
it is no plain file of its own."""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.bert.names import VOCABULARY_FILE
from concord.train.data.tasks import TASKS_FILE as TASK_DEFINITIONS
from concord.train.outputs.names import METRICS_FILE, PRETRAINING_FILE, SUMMARY_FILE, files_before_state

_STANDARD = (1, 2)  # descriptors of the output and the error output
_MOST_LINKS = 40  # that a path may lead through, as for Linux
_NAMES = {Path(name).name for name in files_before_state(())}
_NAMES |= {PRETRAINING_FILE, SUMMARY_FILE, VOCABULARY_FILE, TASK_DEFINITIONS}
_LEFT_BY_A_RUN = (
    r".*-(dev|test)-predictions\.csv|.*-dev-(answers|mistakes)\.csv|curves\.png|conflicts\.png|report\.html"
)


def is_standard(path: Path) -> bool:
    """Whether `path` is "-", the standard input or output."""
    return str(path) == "-"


def check_output(path: Path, kept: Iterable[Path], flag: str = "--output") -> None:
    """Raise InputError where what is written to `path`, which `flag` names, would take the place of a folder, of a file
    of a run, a model or a data set, or of one of the files `kept`, whatever links or further names lead to it."""
    if is_standard(path):
        return
    if path.is_dir():
        raise InputError(f"{flag} {path}: a folder, expected a file")
    place = Path(os.path.realpath(path))
    of_a_run = (place.parent / METRICS_FILE).exists() or (place.parent.parent / METRICS_FILE).exists()
    named = place.name in _NAMES or (of_a_run and re.fullmatch(_LEFT_BY_A_RUN, place.name))
    if named and (of_a_run or place.exists()):
        raise InputError(f"{flag} {path}: the name of a file of a run, a model or a data set, expected another file")
    for other in kept:
        if path.exists() and other.is_file() and path.samefile(other):
            raise InputError(f"{flag} {path}: it is {other} itself, expected another file")


def is_standard_output(path: Path) -> bool:
    """Whether `path` leads to where this process's standard output goes."""
    return _descriptor(path) == 1


def write_named(path: Path, text: str) -> None:
    """Write a text to the file that the user names; OSError that names it where that fails.

    "-" is the standard output. A plain file is replaced whole, and of a link what it points to. What is open as a
    standard stream, or named by its descriptor as /dev/stdout is, is written to where the stream stands, so that
    `--output /dev/stdout >> log` appends; pipes and devices are written to as they are.
    """
    descriptor = _descriptor(path)
    try:
        if descriptor is not None:
            sys.stdout.flush()
            with open(os.dup(descriptor), "w", encoding="utf-8") as file:
                file.write(text)
        elif path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            with replacing(Path(os.path.realpath(path))) as beside:
                beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path stands for, if it stands for one."""
    if is_standard(path):
        return 1
    here = path
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(here.parent)
        if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd") and here.name.isdecimal():
            return int(here.name)
        if not here.is_symlink():
            break
        here = Path(folder, os.readlink(here))
    return next((number for number in _STANDARD if _is_open_as(path, number)), None)


def _is_open_as(path: Path, number: int) -> bool:
    try:
        found, stream = path.stat(), os.fstat(number)
    except OSError:  # there is no such file yet, or the stream is closed
        return False
    return stat.S_ISREG(stream.st_mode) and os.path.samestat(found, stream)
