"""What torchrun tells each process that it starts, read without torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from concord.bert.errors import InputError, shown

_NO_ID = "none"  # what torchrun calls a group that nobody has given an id


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process among those of a launch.

    Attributes:
        rank: of all processes, from 0.
        size: how many there are.
        local_rank: of those on this machine, from 0.
        local_size: how many are on this machine.
        name: of the launch, the same after each restart; "" where nothing tells it.
        restarts: how often its processes have been started again.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    name: str
    restarts: int


def launch_of(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What the environment says; None in a process that nothing has launched. InputError where it says nonsense."""
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return None
    size, rank = _number(environment, "WORLD_SIZE"), _number(environment, "RANK")
    launch = Launch(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK", rank),
        local_size=_number(environment, "LOCAL_WORLD_SIZE", size),
        name=_name(environment),
        restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
    )
    if rank >= size or launch.local_rank >= launch.local_size:
        raise InputError(f"RANK={rank} WORLD_SIZE={size}: expected a rank below the number of processes")
    return launch


def _name(environment: Mapping[str, str]) -> str:
    """The id of the launch; torchrun's own process, which outlives restarts, where it has been given none."""
    name = environment.get("TORCHELASTIC_RUN_ID", "")
    if name != _NO_ID:
        return name
    return f"{_NO_ID} {environment.get('MASTER_ADDR', '')} {os.getppid()} {_beginning(os.getppid())}"


def _beginning(process: int) -> str:
    """When a process began, in the system's ticks, which tells it from a later one of the same number; "" where the
    system does not say."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name, "" if otherwise is None else str(otherwise))
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{name}={shown(text)}: expected a whole number, as torchrun sets it")
    return int(text)
