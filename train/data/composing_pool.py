"""Chunks of texts composed by several processes at once, in their order."""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import numpy as np

from concord.bert.errors import InputError
from concord.bert.files import PROJECT
from concord.bert.tokenizer import Tokenizer

_WORKER = "concord.train.data.composing_worker"
_SECONDS = 10.0  # for a process whose answers have ended to end itself


def compose_chunks(
    chunks: Iterable[list[str]], tokenizer: Tokenizer, count: int, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    """What `compose` makes of each chunk, in their order, by `count` processes; a few chunks are read ahead.

    options: of `compose`. InputError where it raises one, and where a process ends, as where memory is short.
    """
    begin = pickle.dumps((tokenizer, options))
    workers = [_Worker(begin) for _ in range(count)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def answer(texts: list[str]) -> dict[str, np.ndarray]:
        worker = idle.get()
        try:
            return worker.answer(texts)
        finally:
            idle.put(worker)

    waiting: deque[Future[dict[str, np.ndarray]]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for texts in chunks:
            waiting.append(pool.submit(answer, texts))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for worker in workers:
            worker.end()
        pool.shutdown()


class _Worker:
    """One process, which is begun here; begin: what it reads first."""

    def __init__(self, begin: bytes) -> None:
        # One thread each: the processes share the cores among them.
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", _WORKER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._begin = begin

    def answer(self, texts: list[str]) -> dict[str, np.ndarray]:
        """The arrays of a chunk; InputError as `compose_chunks` raises it."""
        try:
            self._process.stdin.write(self._begin + pickle.dumps(texts, protocol=pickle.HIGHEST_PROTOCOL))
            self._process.stdin.flush()
            self._begin = b""
            found = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS)
            self.end()
            code = self._process.returncode
            raise InputError(f"a process that tokenises ended (exit code {code}), as where memory is short") from None
        if isinstance(found, str):
            raise InputError(found)
        return found

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what it still held has no reader any more
                pipe.close()
