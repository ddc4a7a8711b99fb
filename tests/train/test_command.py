"""How a command line ends: its own exit code, 2 and one line for what the user can mend, a traceback for bugs."""

import errno
import io
import sys

import pytest
import torch

from concord.bert.errors import InputError
from concord.train.command import run_command


def raising(error):
    def command(arguments):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("here: found this"), "error: here: found this"),
        (OSError(errno.ENOSPC, "No space left on device", "run/state"), "error: run/state: No space left on device"),
        (OSError("odd"), "error: odd"),
        (torch.OutOfMemoryError("CUDA out of memory.\nMore"), "error: out of GPU memory (CUDA out of memory.); try a"),
        (MemoryError(), "error: out of memory (MemoryError); try a smaller --batch-size"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(error, expected, capsys):
    assert run_command(raising(error)) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith(expected)


def test_more_memory_than_the_host_has_is_one_line_too(capsys):
    assert run_command(lambda arguments: torch.empty(2**50)) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("error: out of memory (")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), NotImplementedError(), RecursionError(), ValueError()])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_command(raising(error))


def test_a_commands_own_code_is_the_exit_code_and_a_stop_has_130():
    assert run_command(lambda arguments: None) == 0
    assert run_command(lambda arguments: 3) == 3
    assert run_command(raising(KeyboardInterrupt())) == 130


def test_what_a_terminal_cannot_show_does_not_end_a_run(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run_command(lambda arguments: print("caf\u00e9 \udce9")) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"caf\\xe9 \\udce9\n"
