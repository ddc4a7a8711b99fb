"""A file is one process's while it holds it: on POSIX systems, on Windows, and where there are no locks."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from concord.train.outputs import locks

HOLD = (
    "import sys; from concord.train.outputs.locks import locked; file = open(sys.argv[1], 'ab'); "
    "print(locked(file), flush=True); sys.stdin.read()"
)


@pytest.mark.skipif(locks.fcntl is None, reason="needs POSIX locks")
def test_another_process_holds_the_file_until_it_is_killed(tmp_path):
    path = tmp_path / "log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], **pipes) as process:
        assert process.stdout.readline().strip() == b"True"
        with path.open("ab") as file:
            assert not locks.locked(file)
            process.kill()
            process.wait()
            assert locks.locked(file)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(None, True), (PermissionError(errno.EACCES, "held"), False), (OSError(errno.EINVAL, "no locks here"), True)],
)
def test_on_windows_one_byte_is_locked_where_no_log_reaches_and_the_position_stays(
    tmp_path, monkeypatch, raised, expected
):
    places = []

    def locking(descriptor, mode, count):
        places.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, count))
        if raised:
            raise raised

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="at once"))
    with (tmp_path / "log").open("a+b") as file:
        file.write(b"kept")
        file.flush()
        assert locks.locked(file) is expected
        assert file.tell() == 4
        file.write(b"more")
    assert places == [(1 << 40, "at once", 1)]
    assert (tmp_path / "log").read_bytes() == b"keptmore"


def test_a_system_without_locks_gives_the_file_to_everybody(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", None)
    with (tmp_path / "log").open("ab") as file:
        assert locks.locked(file)
