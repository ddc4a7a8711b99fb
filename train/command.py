"""What the command lines share: bad input ends in one line and exit code 2, and a traceback is for bugs only."""

import atexit
import gc
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from concord.bert.errors import InputError, exhausted_memory, one_line
from concord.train.outputs.console import discard
from concord.train.ranks.environment import launch_of
from concord.train.threads import settle_threads

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_NOT_MANY = "only a fine-tuning run (python -m train.run) takes several; start this command without torchrun"
STANDARD_OUTPUT = "<stdout>"

# An ending interpreter looks through all objects for garbage, torch's million too, which takes half a second.
atexit.register(gc.freeze)


def run_command(
    command: Callable[[Sequence[str] | None], Any],
    arguments: Sequence[str] | None = None,
    *,
    takes_ranks: bool = False,
) -> int:
    """Run a command line and return its exit code: its own, 2 after bad input, 130 where the user stopped it, or nobody
    reads what it prints. A result that is no exit code is a success's.

    takes_ranks: whether the command runs in several processes at once; any other is refused in those that a launcher
    has started, where each would do the same. A process that fails ends the others of its launch with it.
    """
    if takes_ranks:
        try:
            return _leave(_run_command(command, arguments))
        except SystemExit as end:
            _leave(end.code if isinstance(end.code, int) else 0)
            raise
        except BaseException:
            if _joined() is not None:
                traceback.print_exc()
            _leave(FAILED)
            raise
    try:
        launch = launch_of()
    except InputError as error:
        return _refuse(str(error))
    if launch is not None and launch.size > 1:
        # Each says so: the launcher ends the others with the first that leaves, and they may not have come this far.
        return _refuse(f"{launch.size} processes: {_NOT_MANY}")
    return _run_command(command, arguments)


def _joined() -> Any | None:
    """The module by which this process has joined other ranks, None where it has not."""
    return sys.modules.get("concord.train.ranks.joined")


def _leave(code: int) -> int:
    """Leave the other ranks with this exit code."""
    joined = _joined()
    return code if joined is None else joined.leave(code)


def _run_command(command: Callable[[Sequence[str] | None], Any], arguments: Sequence[str] | None) -> int:
    """`run_command` of one process.

    Every command begins here, and imports torch only after its flags are parsed: what has to be settled for the process
    before torch is loaded is settled here, before `command` is called.
    """
    settle_threads()
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal cannot encode are escaped, and do not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            result = command(arguments)
        except SystemExit:  # after --help
            _flush()
            raise
        _flush()
        return result if isinstance(result, int) else 0
    except InputError as error:
        return _refuse(str(error))
    except (RuntimeError, MemoryError) as error:
        kind = exhausted_memory(error)
        if not kind:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        smaller = "a smaller --batch-size with --accumulate, or train.run's --accumulate auto"
        return _refuse(f"out of {kind} ({reason}); try {smaller}")
    except BrokenPipeError as error:
        if error.filename is not None:
            return _refuse(f"{error.filename}: {error.strerror}")
        discard(sys.stdout)
        return INTERRUPTED
    except OSError as error:
        place = error.filename or _failing_stream()
        return _refuse(f"{place}: {error.strerror}" if place else f"{error.strerror or error}")
    except KeyboardInterrupt:
        return INTERRUPTED


def _flush() -> None:
    """Hand on what has been printed; OSError that names the stream where that fails, as it would at the process's
    end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


def _failing_stream() -> str:
    """The name of the standard output where it takes nothing more, not even the end of a line, and "" where it does: an
    error that names no file may be of a plain print, which forgets what it could not write."""
    try:
        if sys.stdout is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
        return STANDARD_OUTPUT
    return ""


def _refuse(message: str) -> int:
    """Print one line, unless nobody can read it."""
    with suppress(OSError):
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    return BAD_INPUT
