"""What the tokenizers' library needs around it: quiet where it panics, and one error for whatever it raises."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from concord.bert.errors import InputError
from concord.kernels.threads import runs_alone


@contextmanager
def errors_unseen() -> Iterator[None]:
    """Within this context nothing reaches the error output, to which the library writes pages where it panics.

    The error output is the process's: where other threads run, it is left as it is, and what they write is not lost.
    """
    if not runs_alone():
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def refusing(message: str) -> Iterator[None]:
    """Within this context whatever the library raises is an InputError that begins with `message`.

    It raises plain Exception for whatever is wrong with a file, and panics with an error that is none.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{message} ({error})") from None
