"""Power cuts of a disk of its own: a run writes to ext4 in an image, which is copied at random moments, as a crash
would leave it; each copy is mounted, its journal replayed, and the run gone on with. It needs root, loop devices and
mkfs.ext4."""

import shutil
import subprocess

from concord.train.outputs.names import EARLIER_STATE_FILE, STATE_FILE
from tests.reliability.faults import StopAt
from tests.reliability.processes import Command, run, wait_for
from tests.reliability.trials import Trials

MOUNTS = {"ext4": "loop", "ext4 without auto_da_alloc": "loop,noauto_da_alloc,data=writeback"}
_LONG = ("--epochs", "3000", "--steps-per-epoch", "1000000")  # longer than the power lasts


def cuts(folder, count, seed, longest=6.0):
    """How so many power cuts of each kind of mount end, at up to so many seconds between two of them."""
    trials = Trials(folder / "mounted", seed)
    for kind, options in MOUNTS.items():
        image, disk = trials.folder / "disk.img", trials.folder / "disk"
        disk.mkdir(exist_ok=True)
        with image.open("wb") as file:
            file.truncate(96 << 20)
        _do("mkfs.ext4", "-q", "-F", image)
        _do("mount", "-o", options, image, disk)
        try:
            copies = list(_copies(trials, disk / "run", image, count, longest))
        finally:
            _do("umount", disk)
        for copy, saved in copies:
            _do("mount", "-o", "loop", copy, disk)
            try:
                yield f"{kind}: {_after(disk / 'run', saved)}"
            finally:
                _do("umount", disk)
                copy.unlink()


def _copies(trials, out, image, count, longest):
    """Copies of the disk's image, and whether a state was there for sure: one that had been followed by another."""
    command = Command("run", [*trials.arguments, *_LONG, "--out", out])
    for number in range(count):
        wait_for(lambda: False, trials.draw.uniform(0.3, longest))
        command.pause()
        saved, copy = (out / EARLIER_STATE_FILE).exists(), trials.folder / f"copy-{number}.img"
        _do("cp", "--sparse=always", image, copy)
        command.go_on()
        yield copy, saved
    command.kill()
    command.wait()


def _after(out, saved):
    if not (out / "config.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        return "SETTINGS LOST" if saved else "before the settings"
    outcome = run("run", ["--resume", out], StopAt(2))
    lines = [line for line in outcome.out.splitlines() if line.startswith(("resumed", "warning"))]
    states = any(line.startswith("resumed    after step") for line in lines)
    if outcome.kind != "stopped" or (saved and not states):
        return f"NOT GONE ON WITH: {outcome.kind} {outcome.err.strip()[-300:]} {lines}"
    if any(str(out) in line and f"{STATE_FILE}: missing" not in line for line in lines):
        return f"DAMAGED: {lines}"
    if states and run("evaluate", [out]).kind != "ok":
        return f"NO BEST MODEL: {run('evaluate', [out]).err.strip()[-300:]}"
    return "gone on from a state, the best model answers" if states else "gone on from the beginning"


def _do(*arguments):
    subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True)
