"""What the command lines share: bad input ends in one line and exit code 2, and a traceback is for bugs only."""

import io
import sys
from collections.abc import Callable, Sequence

from concord.bert.errors import InputError, exhausted_memory
from concord.train.threads import settle_threads

BAD_INPUT, INTERRUPTED = 2, 130


def run_command(command: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: its own, 2 after bad input, 130 where the user stopped it.

    Every command begins here, and imports torch only after its flags are parsed: what has to be settled for the process
    before torch is loaded is settled here, before `command` is called.
    """
    settle_threads()
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal cannot encode are escaped, and do not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command(arguments) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (RuntimeError, MemoryError) as error:
        kind = exhausted_memory(error)
        if not kind:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"error: out of {kind} ({reason}); try a smaller --batch-size with --accumulate", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
