"""Faults that a process makes for itself: it is killed, or an I/O error comes, at its nth file operation; or the states
in which a power cut could leave its disk are kept as images."""

import errno
import os
import random
import shutil
import signal
import stat
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

# What Python tells of before it does it, with a path in front.
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def watch_operations(root, before):
    """Call `before(path)` before each operation of this process that changes something below `root`: a file that is
    opened for writing, renamed, removed or synced, a folder that is made or synced."""
    root, own = str(root), threading.local()

    def about_to(path):
        if str(path).startswith(root) and not getattr(own, "busy", False):
            own.busy = True  # its own operations do not count
            try:
                before(str(path))
            finally:
                own.busy = False

    def hook(event, arguments):
        if event not in _OPERATIONS or isinstance(arguments[0], int):
            return
        reads = event == "open" and not set(str(arguments[1] or "")) & set("wax+")
        if reads and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        about_to(os.fsdecode(arguments[0]))

    sync = os.fsync

    def synced(descriptor):
        about_to(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    os.fsync = synced
    sys.addaudithook(hook)


@dataclass
class KillAt:
    """SIGKILL before the nth operation below `root`."""

    number: int
    root: Path
    seen: int = 0

    def install(self):
        watch_operations(self.root, self._count)

    def _count(self, path):
        self.seen += 1
        if self.seen == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class FailAt:
    """An I/O error at the nth operation below `root`, or with `stuck` at every one from there on.

    count: a file that has the number of operations so far, where it is to be known.
    """

    number: int
    root: Path
    stuck: bool = False
    count: Path | None = None
    seen: int = 0

    def install(self):
        watch_operations(self.root, self._count)

    def _count(self, path):
        self.seen += 1
        if self.count:
            self.count.write_text(str(self.seen))
        if self.seen == self.number or (self.stuck and self.seen > self.number):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


@dataclass
class StopAt:
    """SIGTERM in the middle of a step."""

    step: int
    done: int = 0

    def install(self):
        from concord.train.outputs.progress import ConsoleReporter

        advance = ConsoleReporter.advance

        def advance_and_stop(reporter):
            self.done += 1
            if self.done == self.step:
                signal.raise_signal(signal.SIGTERM)
            advance(reporter)

        ConsoleReporter.advance = advance_and_stop


@dataclass
class PowerCuts:
    """Before some operations, keeps an image of what a power cut could leave of `root` at that moment.

    What is sure to be there is what was synced: a file's content since the last fsync of the file, a folder's names
    since the last fsync of the folder. Of what changed since, the disk has as much or as little as it pleases: names as
    at any moment since then, each folder by itself, and of a file nothing, its beginning, or zeros in the place of its
    end.

    Args:
        root: the folder that stands for the disk.
        images: folder of the images, each with a file `promised`: after which step a state is on the disk for sure.
        share: of the operations that an image is kept of.
        seed: of what is drawn.
    """

    root: Path
    images: Path
    share: float
    seed: int
    promised: int = 0
    kept: int = 0
    opened: dict[int, int] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    listings: dict[str, list[dict[str, int | None]]] = field(default_factory=dict)

    def install(self):
        from concord.train.runs import session

        self.draw, self.lock = random.Random(self.seed), threading.RLock()
        self._look()
        self.listings = {folder: found[-1:] for folder, found in self.listings.items()}
        write_state, sync = session.write_state, os.fsync

        def write_and_promise(directory, state, settings):
            write_state(directory, state, settings)
            self.promised = state.progress.steps

        def sync_and_know(descriptor):
            with self.lock:
                known = self._of(descriptor)
                sync(descriptor)
                self._know(*known)

        session.write_state = write_and_promise
        os.fsync = sync_and_know
        watch_operations(self.root, self._before)

    def _before(self, path):
        with self.lock:
            self._look()
            if self.draw.random() < self.share:
                target = self.images / str(self.kept)
                self.kept += 1
                self._write_image(str(self.root), target / "disk")
                (target / "promised").write_text(str(self.promised))

    def _look(self):
        """Note what each folder holds now, where that is not what was noted last."""
        for folder, folders, files in os.walk(self.root):
            found = dict.fromkeys(folders)
            for name in files:
                path = os.path.join(folder, name)
                number = os.stat(path).st_ino
                # Held open, a removed file's number is not given to another.
                if number not in self.opened:
                    self.opened[number] = os.open(path, os.O_RDONLY)
                found[name] = number
            noted = self.listings.setdefault(folder, [{}])
            if noted[-1] != found:
                noted.append(found)

    def _of(self, descriptor):
        """What a descriptor is of, and what is synced with it: names, or content."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._look()
            return path, self.listings.get(path, [{}])[-1]
        return status.st_ino, _content(self.opened.get(status.st_ino, descriptor))

    def _know(self, what, synced):
        if isinstance(what, str):
            self.listings[what] = [synced, *self.listings.get(what, [{}])[-1:]]
        else:
            self.synced[what] = synced

    def _write_image(self, folder, target):
        target.mkdir(parents=True)
        for name, number in self.draw.choice(self.listings.get(folder, [{}])).items():
            if number is None:
                self._write_image(os.path.join(folder, name), target / name)
            else:
                (target / name).write_bytes(self._survives(number))

    def _survives(self, number):
        """What the disk may have of a file."""
        now, synced = _content(self.opened[number]), self.synced.get(number)
        if now == synced:
            return now
        begins = len(synced) if synced is not None and now.startswith(synced) else 0
        cut = self.draw.randint(begins, len(now))
        return self.draw.choice([now[:begins] or synced or b"", now, now[:cut], now[:cut] + bytes(len(now) - cut)])


def _content(descriptor):
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def fresh(folder):
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
