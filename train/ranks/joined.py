"""A launched process joins the others, is told when one of them fails, and leaves together with them."""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from concord.bert.errors import InputError
from concord.train.ranks.environment import Launch
from concord.train.ranks.group import Ranks

_FAILED, _SAID, _GONE = "concord/failed", "concord/said", "concord/gone"
_LOOK, _LAST_WORDS = 0.25, 5.0  # seconds between two looks at the others, and that are waited for them at the end
BAD_INPUT, INTERRUPTED = 2, 130  # exit codes
_HOST_WAITS = timedelta(hours=12)  # rank 0 may tokenise, or answer test sets, for long

_store: Any = None
_size = 1
_watcher: threading.Thread | None = None
_leaving = threading.Event()


@contextmanager
def joined(launch: Launch) -> Iterator[Ranks]:
    """Within this context the process is one of the launch's ranks, whose device is yet to be named: see `on_device`.

    Where any process fails, all end, wherever they are: the first says why, with its own exit code, and the others end
    silently with the same.
    """
    global _store, _size, _watcher
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=_HOST_WAITS)))
    store.set_timeout(_HOST_WAITS)
    store = dist.PrefixStore(str(launch.restarts), store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_HOST_WAITS)
    _store, _size = store, size
    _watcher = threading.Thread(target=_watch, args=(store,), daemon=True)
    _watcher.start()
    try:
        yield Ranks(rank, size, dist.group.WORLD, dist.group.WORLD, launch.local_rank == 0)
    except Exception as error:
        # One message: what one rank refuses, all refuse at about the same time.
        if store.add(_SAID, 1) > 1:
            raise SystemExit(BAD_INPUT if isinstance(error, InputError) else 1) from None
        raise


def on_device(ranks: Ranks, launch: Launch, device: str) -> Ranks:
    """The same ranks on their GPUs, one each, where the run's device, auto, cpu or cuda, is one.

    InputError where a machine has fewer GPUs than processes.
    """
    if device == "cpu" or not torch.cuda.is_available():
        return ranks
    count = torch.cuda.device_count()
    if launch.local_size > count:
        raise InputError(
            f"--nproc-per-node {launch.local_size}: this machine has {count} GPUs, and each process takes one; "
            "give as many, or --device cpu"
        )
    torch.cuda.set_device(launch.local_rank)
    group = dist.new_group(backend="nccl")
    return Ranks(ranks.rank, ranks.size, group, ranks.host, ranks.first_here)


def leave(code: int) -> int:
    """To be called with the process's exit code at its end: where that is a failure's, all ranks end with it at once;
    after a stop, which all make, each waits for the others."""
    if _store is None:
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:
        _go(_store, code, _HOST_WAITS.total_seconds())
    if code:
        _store.set(_FAILED, str(code))
        _go(_store, code, _patience(code))
    # A thread that comes back to the interpreter while that is ending takes the whole process with it (SIGABRT).
    _leaving.set()
    if _watcher is not None:
        _watcher.join(_LAST_WORDS)
    end_groups()
    return code


def end_groups() -> None:
    """Leave all process groups, and wait for gloo's threads, which end with the last reference to their group.

    Such a thread lets go of a collective's tensors some time after it is done, and asks for the interpreter then, which
    may be ending: the process would be aborted at the very end of its work. Nothing that holds a group may be alive in
    the caller; what is so in a cycle alone is collected here.
    """
    dist.destroy_process_group()
    gc.collect()


def _watch(store: Any) -> None:
    """Look out for a rank that has failed."""
    while not _leaving.wait(_LOOK):
        try:
            if store.check([_FAILED]):
                code = int(store.get(_FAILED))
                _go(store, code, _patience(code))
        except (RuntimeError, ValueError):  # the launcher has ended, or this process has left
            return


def _patience(code: int) -> float:
    """Seconds in which the others are waited for: none where some may have been killed."""
    return _LAST_WORDS if code == BAD_INPUT else 0.0


def _go(store: Any, code: int, patience: float) -> None:
    """End this process, whatever a thread of it waits for, once all know that they end, or after so many seconds."""
    # The launcher ends the others as soon as it sees that one has failed, and they would have its code.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        store.add(_GONE, 1)
        end = time.monotonic() + patience
        while store.add(_GONE, 0) < _size and time.monotonic() < end:
            time.sleep(0.02)
    except RuntimeError:
        pass
    os._exit(code)
