"""Code of the user's own that settings name as MODULE:FUNCTION: whose it is trusted to be, and how it is called.

The command line may name any code. The folder of a run may not, since it can come from somebody else: what it names is
imported where the command line gives it again, or the environment variable CONCORD_OWN has its module.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, exhausted_memory
from concord.bert.files import exists, is_file
from concord.bert.tables import find_own, is_own, reason_of

VARIABLE = "CONCORD_OWN"
_AGAIN = "give its flag again, with --resume"


def own_names(settings: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """The MODULE:FUNCTION that stand in those of `names` that are in `settings`, each once.

    What --data names is a folder where there is one, whatever signs its name has.
    """
    found = []
    for setting in names:
        value = settings.get(setting, ())
        if isinstance(value, str):
            found += [value] if is_own(value) and not (setting == "data" and exists(Path(value))) else []
        else:
            found += [part for item in value for part in item.rpartition("=")[2].split("+") if is_own(part)]
    return list(dict.fromkeys(found))


def import_own(names: Collection[str]) -> None:
    """Import what is named; InputError in one line for the first that is not to be had."""
    for name in names:
        find_own(name)


def check_trusted(names: Collection[str], typed: Collection[str], place: Path) -> None:
    """InputError where the run in the folder `place`, or the file of settings there, names code that neither `typed`
    nor CONCORD_OWN names."""
    modules = os.environ.get(VARIABLE, "").split(",")
    what, kind, how = ("it", "file", "give its flag") if is_file(place) else ("the run", "folder", _AGAIN)
    for name in names:
        module = name.partition(":")[0]
        if name not in typed and module not in modules:
            raise InputError(
                f"{place}: {what} names the code {name}, which is not imported on a {kind}'s word alone; if it is "
                f"yours, set {VARIABLE}={module} (or {how})"
            )


@contextmanager
def calling(name: str) -> Iterator[None]:
    """Within this context errors of the code called `name` become InputErrors of one line.

    Out-of-memory errors pass unchanged: the commands answer them with what may help.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if exhausted_memory(error):
            raise
        raise InputError(f"{name}: its call raised {reason_of(error)}") from error
